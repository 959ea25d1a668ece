//! What one Holdfast node does. Start at `ARCHITECTURE.md`.

pub mod admin;
pub mod config;
pub mod courier;
pub mod intake;
pub mod net;
pub mod observe;
pub mod replica;
pub mod run;
pub mod store;
pub mod talk;
pub mod world;
