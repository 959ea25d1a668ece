//! What one Holdfast node does. Start at `ARCHITECTURE.md`.

pub mod accounts;
pub mod admin;
pub mod checkup;
pub mod config;
pub mod courier;
pub mod destination;
mod dial;
pub mod explain;
pub mod failpoint;
pub mod finger;
pub mod intake;
pub mod listing;
pub mod net;
pub mod observe;
pub mod person;
pub mod portal;
mod rank;
mod reach;
pub mod recent;
pub mod recipients;
pub mod release;
pub mod replica;
pub mod run;
pub mod store;
pub mod talk;
pub mod watch;
pub mod world;
