//! The parser against etherparse: see `usher_tests::fuzz`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| usher_tests::fuzz::parse(data));
