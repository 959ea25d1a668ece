//! The binary as an operator and a package meet it.

mod alone;
mod cli;
mod golden;
mod help;
mod masks;
mod offline;
mod package;
mod session;
mod traces;
