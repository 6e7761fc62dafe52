//! `usher backend` on a host of its own: packets through every tunnel to real servers, every broken setting
//! named, everything undone. Needs root.

#![allow(clippy::unwrap_used)] // Clippy takes helper functions here for ordinary code.

#[path = "backend_host/host.rs"]
mod host;
#[path = "backend_host/sender.rs"]
mod sender;

#[path = "backend_host/breaking.rs"]
mod breaking;
mod net_lab;
#[path = "backend_host/tunnels.rs"]
mod tunnels;
#[path = "backend_host/undoing.rs"]
mod undoing;
