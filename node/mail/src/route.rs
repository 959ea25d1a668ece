//! Which hosts to try for a domain, and in what order (RFC 5321 section 5.1).
//!
//! Pure: the domain's MX records and a draw go in, host names come out.

/// Hosts that are tried in one attempt. RFC 5321 section 5.1: "SHOULD try at least two".
pub const HOSTS_MAX: usize = 5;

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanger {
    pub preference: u16,
    /// Without a final dot; empty: the root, which takes no mail (RFC 7505).
    pub host: String,
}

/// Why a domain's mail can go nowhere, however long one waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error("the domain takes no mail: its MX record says so (RFC 7505)")]
    NullMx,
    #[error("we are the domain's best mail exchanger, and know of no other place for its mail")]
    Ourselves,
}

/// The hosts to try, in order. `is_ours` says whether a host is one of this cluster's; `draw`
/// mixes those of equal preference.
pub fn hosts(
    mut exchangers: Vec<Exchanger>,
    is_ours: impl Fn(&str) -> bool,
    draw: u32,
) -> Result<Vec<String>, NoRoute> {
    if matches!(&exchangers[..], [only] if only.host.is_empty()) {
        return Err(NoRoute::NullMx);
    }
    let ours = exchangers
        .iter()
        .filter(|mx| is_ours(&mx.host))
        .map(|mx| mx.preference)
        .min();
    exchangers.retain(|mx| !mx.host.is_empty() && ours.is_none_or(|best| mx.preference < best));
    if exchangers.is_empty() && ours.is_some() {
        return Err(NoRoute::Ourselves);
    }
    exchangers.sort_by_key(|mx| mx.preference);
    for equal in exchangers.chunk_by_mut(|a, b| a.preference == b.preference) {
        let turns = draw as usize % equal.len();
        equal.rotate_left(turns);
    }
    Ok(exchangers
        .into_iter()
        .map(|mx| mx.host)
        .take(HOSTS_MAX)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mx(list: &[(u16, &str)]) -> Vec<Exchanger> {
        list.iter()
            .map(|(preference, host)| Exchanger {
                preference: *preference,
                host: (*host).to_owned(),
            })
            .collect()
    }

    fn route(list: &[(u16, &str)], draw: u32) -> Result<Vec<String>, NoRoute> {
        hosts(mx(list), |host| host == "us", draw)
    }

    /// RFC 5321 section 5.1: "If there are multiple destinations with the same preference and
    /// there is no clear reason to favor one …, then the sender-SMTP MUST randomize them".
    #[test]
    fn the_best_is_first_and_equals_take_turns() {
        let list = [(20, "c"), (10, "a"), (10, "b")];
        assert_eq!(route(&list, 0).unwrap(), ["a", "b", "c"]);
        assert_eq!(route(&list, 1).unwrap(), ["b", "a", "c"]);
    }

    /// The same section: a host that finds itself in the list discards its own record and all
    /// that are no better.
    #[test]
    fn nothing_goes_to_ourselves_or_to_a_worse_exchanger() {
        let list = [(10, "a"), (20, "us"), (20, "b"), (30, "c")];
        assert_eq!(route(&list, 0).unwrap(), ["a"]);
        assert_eq!(route(&[(10, "us"), (20, "b")], 0), Err(NoRoute::Ourselves));
    }

    #[test]
    fn a_null_mx_takes_no_mail() {
        assert_eq!(route(&[(0, "")], 0), Err(NoRoute::NullMx));
    }
}
