//! The one loop that owns state.
