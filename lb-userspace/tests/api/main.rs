//! The control socket and the commands that use it, against a daemon loop that answers from fixed
//! values.

mod command;
mod control;
mod support;
