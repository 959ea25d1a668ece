//! How mail goes to a domain's primary.

use holdfast_ledger::{Command, LOGIN_OCTETS_MAX, Refusal, Route, RouteTls, query};
use holdfast_proto::admin as wire;
use holdfast_smtp::PORT;
use tonic::Status;

use super::{Admin, broken, domains, refused};

/// Changes what the request names, and tells what holds then.
pub(super) async fn set(
    admin: &Admin,
    request: wire::RouteSetRequest,
) -> Result<wire::Route, Status> {
    let domain = domains::parse(&request.domain)?;
    let view = admin.cluster()?.view();
    let record = query::domain(&view, &domain).map_err(broken)?;
    let record = record.ok_or_else(|| refused(&Refusal::UnknownDomain))?;
    let old = query::route(&view, &domain).map_err(broken)?;
    let new = changed(old.clone(), &request)?;
    // RFC 2033 section 5: LMTP "MUST NOT be used on TCP port 25".
    if new.lmtp && record.primary.port == PORT {
        return Err(Status::invalid_argument(format!(
            "{} is the port of SMTP, and LMTP never goes there (RFC 2033); name the primary's LMTP port",
            record.primary.port
        )));
    }
    if new != old {
        let route = new.clone();
        admin.propose(Command::SetRoute { domain, route }).await?;
    }
    Ok(to_wire(&new))
}

fn changed(mut route: Route, request: &wire::RouteSetRequest) -> Result<Route, Status> {
    if let Some(by_mx) = request.by_mx {
        route.by_mx = by_mx;
    }
    if let Some(lmtp) = request.lmtp {
        route.lmtp = lmtp;
    }
    if let Some(direct) = request.direct {
        route.direct = direct;
    }
    if let Some(private) = request.private {
        route.private = private;
    }
    if let Some(tls) = &request.tls {
        route.tls = match tls.as_str() {
            "opportunistic" => RouteTls::Opportunistic,
            "required" => RouteTls::Required,
            "verified" => RouteTls::Verified,
            other => {
                return Err(Status::invalid_argument(format!(
                    "{other:?} is not opportunistic, required or verified"
                )));
            }
        };
    }
    if let Some(user) = &request.user {
        let fits = |text: &str| {
            (1..=LOGIN_OCTETS_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
        };
        route.login = match user.as_str() {
            "" => None,
            user if fits(user) && fits(&request.secret) => {
                Some((user.to_owned(), request.secret.clone()))
            }
            _ => {
                return Err(Status::invalid_argument(format!(
                    "a name and a secret have 1 to {LOGIN_OCTETS_MAX} octets and no control characters"
                )));
            }
        };
    }
    if let Some(key) = &request.key {
        route.key = match key.as_str() {
            "" => None,
            key => Some(fingerprint(key).ok_or_else(|| {
                Status::invalid_argument(format!(
                    "{key:?} is not the SHA-256 of a public key, 64 hexadecimal digits"
                ))
            })?),
        };
    }
    Ok(route)
}

/// With or without colons, as openssl writes it.
fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|two| two[0] << 4 | two[two.len() - 1])
        .collect();
    bytes.try_into().ok().filter(|_| digits.len() == 64)
}

/// Without the secret.
pub(super) fn to_wire(route: &Route) -> wire::Route {
    let key = route.key.iter().flatten();
    wire::Route {
        by_mx: route.by_mx,
        lmtp: route.lmtp,
        tls: match route.tls {
            RouteTls::Opportunistic => "opportunistic",
            RouteTls::Required => "required",
            RouteTls::Verified => "verified",
        }
        .to_owned(),
        user: route
            .login
            .as_ref()
            .map(|(user, _)| user.clone())
            .unwrap_or_default(),
        private: route.private,
        key: key.map(|byte| format!("{byte:02x}")).collect(),
        direct: route.direct,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_with_or_without_colons() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(fingerprint(&plain), Some([0xab; 32]));
        assert_eq!(fingerprint(&colons), Some([0xab; 32]));
        for wrong in ["", "ab", &plain[1..], &"zz".repeat(32)] {
            assert_eq!(fingerprint(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_is_named_is_changed() {
        let request = wire::RouteSetRequest {
            tls: Some("verified".to_owned()),
            user: Some("us".to_owned()),
            secret: "secret".to_owned(),
            ..wire::RouteSetRequest::default()
        };
        let route = changed(Route::default(), &request).unwrap();
        let private = wire::RouteSetRequest {
            private: Some(true),
            ..wire::RouteSetRequest::default()
        };
        let route = changed(route, &private).unwrap();
        assert_eq!(route.tls, RouteTls::Verified);
        assert_eq!(route.login, Some(("us".to_owned(), "secret".to_owned())));
        let shown = to_wire(&route);
        assert!(shown.private && shown.user == "us", "{shown:?}");
    }
}
