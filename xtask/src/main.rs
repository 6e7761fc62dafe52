//! usher: chores.
fn main() {}
