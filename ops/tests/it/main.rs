//! The binary as an operator and a package meet it.

mod alone;
mod cli;
mod offline;
mod package;
