//! cli

pub mod check_config;
