//! Where a protocol meets a stream: each file drives one of the state machines of `smtp`.

pub mod deliver;
