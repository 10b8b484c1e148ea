//! How a batch of messages becomes commands: the fewest that keep the order that anybody can see.
//!
//! Invariant: the messages of one stream, and everything else among itself, go in the order of the
//! batch. Appends to several streams may change places with one another, as nobody reads two
//! streams at one moment; with anything else they may not: who is told of an event by a channel
//! must find it in the stream.

use std::collections::HashMap;

use super::Message;

/// Events that one call may append: it holds up everybody else on that Redis.
const CALL_EVENTS_MAX: usize = 500;

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
