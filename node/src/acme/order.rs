//! One order, from the account to the certificate (RFC 8555 section 7).

use std::sync::Arc;
use std::time::Duration;

use holdfast_ledger::acme::{AcmeChange, AcmeIssued};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};

use super::http::Client;
use super::{Plan, enter};
use crate::net::authority;
use crate::net::dns::Resolver;
use crate::net::tls::{self, Authorities, Identity};
use crate::replica::Cluster;

/// How often an order is looked at, and how long: authorities look at all names within a minute or two.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_secs(1))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

/// The account was removed there (RFC 8555 section 6.7).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// A certificate for the plan's names, with a new key.
///
/// # Errors
/// Why there is none, for people.
pub(super) async fn order(
    cluster: &Cluster,
    resolver: &Arc<Resolver>,
    plan: &Plan,
) -> Result<AcmeIssued, String> {
    let directory = &plan.acme.directory;
    let authorities = if directory.authorities.is_empty() {
        Authorities::of_machine().map_err(|error| error.to_string())?
    } else {
        Authorities::parse(&directory.authorities).map_err(|error| error.to_string())?
    };
    let client = Client {
        resolver: resolver.clone(),
        authorities,
    };
    let mut order = begin(cluster, &client, plan).await?;
    prove(cluster, &mut order).await?;
    let said = |error: Error| format!("the authority gave no certificate: {error}");
    let (key, request) = authority::request_for(&plan.names).map_err(|error| error.to_string())?;
    order.finalize_csr(&request).await.map_err(said)?;
    let chain = order.poll_certificate(&PATIENCE).await.map_err(said)?;
    // No node could present it otherwise, and all would learn that from the ledger.
    Identity::parse(&chain, &key)
        .and_then(tls::smtp_server)
        .map_err(|error| format!("the certificate that came cannot be used: {error}"))?;
    Ok(AcmeIssued {
        directory: directory.url.clone(),
        chain,
        key,
        names: plan.names.clone(),
    })
}

/// Section 7.4: the order, by the account that there is, or by a new one.
async fn begin(cluster: &Cluster, client: &Client, plan: &Plan) -> Result<Order, String> {
    let names: Vec<_> = plan.names.iter().cloned().map(Identifier::Dns).collect();
    let wanted = NewOrder::new(&names);
    let said = |error: Error| format!("the authority took no order: {error}");
    if let Some(credentials) = &plan.acme.credentials {
        let credentials = serde_json::from_slice(credentials)
            .map_err(|error| format!("the account cannot be read: {error}"))?;
        let account = Account::builder_with_http(Box::new(client.clone()))
            .from_credentials(credentials)
            .await
            .map_err(|error| format!("the directory cannot be read: {error}"))?;
        match account.new_order(&wanted).await {
            Ok(order) => return Ok(order),
            Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {
                tracing::warn!("the authority has forgotten the account; another is made");
            }
            Err(error) => return Err(said(error)),
        }
    }
    let account = register(cluster, client, plan).await?;
    account.new_order(&wanted).await.map_err(said)
}

/// Section 7.3. An operator has agreed to the authority's terms.
async fn register(cluster: &Cluster, client: &Client, plan: &Plan) -> Result<Account, String> {
    let directory = &plan.acme.directory;
    let contact: Vec<&str> = directory.contacts.iter().map(String::as_str).collect();
    let wanted = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, credentials) = Account::builder_with_http(Box::new(client.clone()))
        .create(&wanted, directory.url.clone(), None)
        .await
        .map_err(|error| format!("the authority gave no account: {error}"))?;
    let credentials = serde_json::to_vec(&credentials).map_err(|error| error.to_string())?;
    let directory = directory.url.clone();
    let account_of = AcmeChange::Account {
        directory,
        credentials,
    };
    enter(cluster, account_of).await?;
    Ok(account)
}

/// Sections 7.5 and 8.3: every name leads to nodes that know the answer.
async fn prove(cluster: &Cluster, order: &mut Order) -> Result<(), String> {
    let said = |error: Error| format!("the authority does not say how to prove a name: {error}");
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(said)?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            other => return Err(format!("the authority holds a name to be {other:?}")),
        }
        let mut challenge = authorization
            .challenge(ChallengeType::Http01)
            .ok_or("the authority does not prove names by http-01")?;
        let answer = AcmeChange::Answer {
            token: challenge.token.clone(),
            key_authorization: challenge.key_authorization().as_str().to_owned(),
        };
        enter(cluster, answer).await?;
        challenge.set_ready().await.map_err(said)?;
    }
    let status = order.poll_ready(&PATIENCE).await;
    match status.map_err(|error| format!("a name could not be proved: {error}"))? {
        OrderStatus::Ready | OrderStatus::Valid => Ok(()),
        _ => Err(refused(order).await),
    }
}

/// Which names the authority could not reach, and what it found.
async fn refused(order: &mut Order) -> String {
    let mut told = Vec::new();
    // As they were read before, they do not say it yet.
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let faults = authorization.challenges.iter();
        told.extend(
            faults
                .filter_map(|challenge| challenge.error.as_ref())
                .map(|fault| format!("{name}: {fault}")),
        );
    }
    format!(
        "the authority could not prove every name; each must lead to a node with [acme] listen on port 80. {}",
        told.join("; ")
    )
}
