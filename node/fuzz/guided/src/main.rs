//! libFuzzer calls the target that the variable `HOLDFAST_FUZZ_TARGET` names; see `ops/fuzz`.
#![no_main]

#[allow(dead_code, reason = "the room has more than its targets need")]
mod replica;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("HOLDFAST_FUZZ_TARGET").unwrap_or_default();
    match name.as_str() {
        "logged" => replica::fuzz::logged,
        "snapshot" => replica::fuzz::snapshot,
        _ => {
            let target = holdfast_fuzz::TARGETS.iter().find(|t| t.name == name);
            target.expect("HOLDFAST_FUZZ_TARGET names a target").run
        }
    }
});

fuzz_target!(|data: &[u8]| TARGET(data));
