//! How many messages go before an answer is waited for.
//!
//! All answers to one wave must come within one limit of time, and commands of users take as long
//! as they take. A wave that is not answered in time may have been carried out, and is sent again.
//! Invariant: whoever begins, begins with one, so that something is done before a wave takes too
//! long, whatever was forgotten; otherwise the same wave would be carried out for ever.

/// After one that was too long, so many are to be in time before one more goes: with each that is
/// too long commands are repeated.
const WAVES_PER_STEP: u32 = 16;

#[derive(Debug)]
pub struct Window {
    most: usize,
    is_careful: bool,
    /// Waves of the most that were in time since it grew.
    in_time: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { most: 1, is_careful: false, in_time: 0 }
    }
}

impl Window {
    pub fn most(&self) -> usize {
        self.most
    }

    /// A wave of so many was answered in time.
    pub fn arrived(&mut self, count: usize) {
        if count < self.most {
            return;
        }
        self.in_time += 1;
        let more = match self.is_careful {
            false => self.most,
            true => usize::from(self.in_time == WAVES_PER_STEP),
        };
        if more > 0 {
            (self.most, self.in_time) = (self.most.saturating_add(more), 0);
        }
    }

    /// A wave of so many was not.
    pub fn was_too_long(&mut self, count: usize) {
        *self = Self { most: (count / 2).max(1), is_careful: true, in_time: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often so many messages are carried out, if so many at once are in time; and in how many
    /// waves.
    fn carried_out(messages: usize, in_time: usize, window: &mut Window) -> (usize, usize) {
        let (mut left, mut carried_out, mut waves) = (messages, 0, 0);
        while left > 0 {
            let count = window.most().min(left);
            (carried_out, waves) = (carried_out + count, waves + 1);
            match count <= in_time {
                true => {
                    window.arrived(count);
                    left -= count;
                }
                false => window.was_too_long(count),
            }
        }
        (carried_out, waves)
    }

    #[test]
    fn slow_commands_are_seldom_repeated() {
        // Danger: what takes too long is sent again and again, and nothing behind it leaves.
        for in_time in [1, 2, 3, 7, 25, 100] {
            let (all, _) = carried_out(1000, in_time, &mut Window::default());
            assert!(all < 1150, "{in_time} in time: {all}");
        }
    }

    #[test]
    fn fast_ones_soon_go_together() {
        // Danger: an answer is waited for where none is needed, and the relay is slow.
        let mut window = Window::default();
        let (_, waves) = carried_out(1000, usize::MAX, &mut window);
        assert!(waves <= 10, "{waves}");
        assert!(window.most() >= 500, "{window:?}");
        // After a server that hung.
        while window.most() > 1 {
            window.was_too_long(window.most());
        }
        let (_, waves) = carried_out(20_000, usize::MAX, &mut window);
        assert!(waves <= 1000, "{waves}");
    }
}
