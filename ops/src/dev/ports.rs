//! Free ports on loopback.

use std::net::TcpListener;

use crate::cli::loopback;
use crate::failure::Failure;

/// Where free ports are looked for: above those of well-known services and below 32768, where
/// Linux begins to give ports to outgoing connections. One from there could be taken by any
/// client while a node is down, and the node could not start again.
const FIRST: u16 = 15_000;
const LAST: u16 = 32_000;

/// `count` ports that nobody listens on now, all different.
pub(crate) fn free(count: usize) -> Result<Vec<u16>, Failure> {
    let mut random = [0; 2];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::new("no free port could be chosen", error))?;
    let span = LAST - FIRST;
    // Two sandboxes that start at the same time should not walk over the same ports.
    let start = u16::from_le_bytes(random) % span;
    let found: Vec<u16> = (0..span)
        .map(|step| FIRST + (start + step) % span)
        .filter(|port| is_free(*port))
        .take(count)
        .collect();
    if found.len() == count {
        return Ok(found);
    }
    Err(Failure::new(
        "no free port could be chosen",
        format!(
            "only {} of {count} are free between {FIRST} and {LAST}",
            found.len()
        ),
    ))
}

pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let ports = free(20).unwrap();
        let mut sorted = ports.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 20);
        assert!(ports.iter().all(|port| (FIRST..LAST).contains(port)));
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
