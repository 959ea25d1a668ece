//! What one Holdfast node does. Start at `ARCHITECTURE.md`.

pub mod admin;
pub mod config;
pub mod courier;
pub mod failpoint;
pub mod finger;
pub mod intake;
pub mod listing;
pub mod net;
pub mod observe;
pub mod release;
pub mod replica;
pub mod run;
pub mod store;
pub mod talk;
pub mod world;
