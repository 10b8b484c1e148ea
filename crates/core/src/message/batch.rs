//! How a batch of messages becomes commands: the fewest that keep the order that anybody can see.
//!
//! Invariant: the messages of one stream, and everything else among itself, go in the order of the
//! batch. Appends to several streams may change places with one another, as nobody reads two
//! streams at one moment; with anything else they may not: who is told of an event by a channel
//! must find it in the stream.
//!
//! A server that is full for a moment refuses some commands and not others. Calls of one kind bear
//! that, as each tells behind which it belongs; all others of a *wave* go as one transaction of
//! Redis, which is refused as a whole. Nor is a command sent in one wave with another message to
//! the same place, unless both say the same: if the first one is refused by itself, what follows it
//! there must wait.

use std::collections::HashMap;

use super::Message;

/// Events that one call may append: it holds up everybody else on that Redis.
const CALL_EVENTS_MAX: usize = 500;

/// How many messages go as one transaction, which holds up everybody else too.
const WAVE_MESSAGES_MAX: usize = 250;

/// One command: which messages of the batch it carries, by their places in it.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// Into one stream, of one length: events, or jobs.
    Append(Vec<usize>),
    Other(usize),
}

/// What the entries of one call have in common.
#[derive(PartialEq, Eq)]
enum Shape {
    Events(Option<u64>),
    Jobs,
    Enqueues,
}

fn shape(message: &Message) -> Option<Shape> {
    match message {
        Message::Append { length_max, .. } => Some(Shape::Events(*length_max)),
        Message::Job { .. } => Some(Shape::Jobs),
        Message::Enqueue { .. } => Some(Shape::Enqueues),
        _ => None,
    }
}

/// The commands for these messages, without those that are not to be sent.
pub fn calls<'a>(messages: impl Iterator<Item = (usize, &'a Message)>) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: HashMap<&[u8], (usize, Shape)> = HashMap::new();
    for (position, message) in messages {
        let (Some(stream), Some(shape)) = (message.stream(), shape(message)) else {
            open.clear();
            calls.push(Call::Other(position));
            continue;
        };
        let joined = open.get(stream).and_then(|(call, known)| match &mut calls[*call] {
            Call::Append(events) if *known == shape && events.len() < CALL_EVENTS_MAX => {
                events.push(position);
                Some(())
            }
            _ => None,
        });
        if joined.is_none() {
            open.insert(stream, (calls.len(), shape));
            calls.push(Call::Append(vec![position]));
        }
    }
    calls
}

/// Whether these calls are to be refused together or not at all.
pub fn is_transaction(calls: &[Call]) -> bool {
    calls.len() > 1 && calls.iter().any(|call| matches!(call, Call::Other(_)))
}

/// How many of these, from the front, go before an answer is waited for.
pub fn wave<'a>(messages: impl Iterator<Item = &'a Message> + Clone) -> usize {
    let is_command = |message: &Message| matches!(message, Message::Command { .. });
    let has_commands = messages.clone().any(is_command);
    let mut places: HashMap<&[u8], &Message> = HashMap::new();
    let (mut count, mut is_mixed) = (0, false);
    for message in messages {
        is_mixed |= shape(message).is_none();
        if is_mixed && count >= WAVE_MESSAGES_MAX {
            break;
        }
        if has_commands {
            let first = *places.entry(message.target()).or_insert(message);
            if (is_command(first) || is_command(message)) && first != message {
                break;
            }
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command(name: &str, key: &str) -> Message {
        Message::Command { arguments: vec![name.as_bytes().into(), key.as_bytes().into()] }
    }

    #[test]
    fn events_of_any_number_of_streams_are_one_wave_and_no_transaction() {
        // Danger: the relay waits for an answer where it did not, and is slow.
        let batch: Vec<Message> = (0..1000).map(|at| append(&(at % 9).to_string(), None)).collect();
        assert_eq!(wave(batch.iter()), 1000);
        assert!(!is_transaction(&plan(&batch)));
        assert!(!is_transaction(&plan(&[publish()])));
        let mixed = [append("a", None), publish()];
        assert!(is_transaction(&plan(&mixed)));
        let many: Vec<Message> = (0..1000).map(|_| publish()).collect();
        assert_eq!(wave(many.iter()), WAVE_MESSAGES_MAX, "nobody else is held up for long");
        assert_eq!(wave([&batch[..], &many].concat().iter()), 1000);
        assert_eq!(wave(vec![command("INCR", "c"); 200].iter()), 200, "each says the same");
        let script = |key: &str| Message::Command {
            arguments: ["EVAL", "text", "1", key].map(|word| word.as_bytes().into()).into(),
        };
        assert_eq!(wave([script("a"), script("b")].iter()), 2, "each has a key of its own");
        assert_eq!(wave([script("a"), command("DEL", "a")].iter()), 1, "both have one");
    }

    proptest! {
        #[test]
        fn no_command_goes_with_another_message_to_its_place(
            kinds in prop::collection::vec((0u8..4, 0u8..4), 0..40)
        ) {
            // Danger: `INCR c` is refused, `SET c 0` behind it is not, and INCR is tried again.
            let batch: Vec<Message> = kinds.iter().map(|(kind, place)| match kind {
                0 => command("INCR", &place.to_string()),
                1 => command("DEL", &place.to_string()),
                2 => append(&place.to_string(), None),
                _ => publish(),
            }).collect();
            let mut rest = &batch[..];
            while !rest.is_empty() {
                let count = wave(rest.iter());
                prop_assert!(count > 0, "it goes on");
                let (sent, left) = rest.split_at(count);
                let is_command = |message: &Message| matches!(message, Message::Command { .. });
                for (at, second) in sent.iter().enumerate() {
                    for first in &sent[..at] {
                        let one_place = first.target() == second.target();
                        let commands = is_command(first) || is_command(second);
                        let differ = one_place && commands && first != second;
                        prop_assert!(!differ, "{:?}, {:?}", first, second);
                    }
                }
                rest = left;
            }
        }
    }

    fn append(stream: &str, length_max: Option<u64>) -> Message {
        let (stream, payload) = (stream.as_bytes().into(), Box::from(&b"e"[..]));
        Message::Append { stream, length_max, payload }
    }

    fn publish() -> Message {
        Message::Publish { channel: Box::from(&b"c"[..]), payload: Box::from(&b"p"[..]) }
    }

    fn plan(messages: &[Message]) -> Vec<Call> {
        calls(messages.iter().enumerate())
    }

    #[test]
    fn streams_are_gathered_up_to_the_next_other_message() {
        // Danger: a script call for each event; or a subscriber looks before the event is there.
        let batch =
            [append("a", None), append("b", None), append("a", None), publish(), append("a", None)];
        let expected = [
            Call::Append(vec![0, 2]),
            Call::Append(vec![1]),
            Call::Other(3),
            Call::Append(vec![4]),
        ];
        assert_eq!(plan(&batch), expected);
    }

    #[test]
    fn another_length_begins_another_call() {
        // Danger: a stream is cut to the length that another trigger asks for.
        let batch = [append("a", Some(1)), append("a", Some(2)), append("a", Some(2))];
        assert_eq!(plan(&batch), [Call::Append(vec![0]), Call::Append(vec![1, 2])]);
    }

    proptest! {
        #[test]
        fn every_message_goes_once_and_none_overtakes(
            kinds in prop::collection::vec((0u8..4, 0u64..2), 0..60)
        ) {
            // Danger: an event is lost or doubled by the way it is sent, or sent out of order.
            let batch: Vec<Message> = kinds.iter().map(|(kind, length)| match kind {
                0 => publish(),
                kind => append(&kind.to_string(), Some(*length)),
            }).collect();
            let sent: Vec<usize> = plan(&batch).into_iter().flat_map(|call| match call {
                Call::Append(events) => events,
                Call::Other(one) => vec![one],
            }).collect();
            let mut all = sent.clone();
            all.sort_unstable();
            prop_assert_eq!(all, (0..batch.len()).collect::<Vec<_>>());
            let stream = |at: usize| match &batch[at] {
                Message::Append { stream, .. } => Some(stream.clone()),
                _ => None,
            };
            for (before, first) in sent.iter().enumerate() {
                for second in &sent[before + 1..] {
                    let may_change = match (stream(*first), stream(*second)) {
                        (Some(one), Some(other)) => one != other,
                        _ => false,
                    };
                    prop_assert!(first < second || may_change, "{first} before {second}");
                }
            }
        }
    }
}
