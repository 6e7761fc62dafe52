//! Measured health: a state machine that turns check results into `up` and `down`.

/// Measured health. What an administrator wants (`ready`, `drain`, `maint`) is another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Takes flows.
    Up,
    /// Takes none.
    Down,
}
