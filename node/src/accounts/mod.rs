//! Signing in: passwords, codes, sessions and tokens.
//!
//! Every node can sign everybody in, and knows the sessions that others began: a session is a
//! sealed text that the browser keeps, under a key that all nodes derive from the cluster's own.
//! What must hold for all nodes at once, guesses and codes used, goes through the log.

mod codes;
mod credentials;
mod password;
mod session;
mod token;

pub use codes::{Enrolment, code_fits};
pub use credentials::Credentials;
pub use password::{PASSWORD_OCTETS_MAX, PASSWORD_OCTETS_MIN};
pub use session::{SESSION_TIME, Seal, Session};
pub use token::{NewToken, TokenError, bearer};

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_ledger::account::{Account, AccountChange, Scopes, is_account_name};
use holdfast_ledger::{Command, KvError, Reply, query};
use holdfast_mail::Network;
use holdfast_smtp::login::Login;
use holdfast_smtp::reply;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::person::Person;
use crate::recent::Recent;
use crate::replica::{Cluster, now};

/// Passwords hashed at a time; each takes a core for some 50 ms and 19 MiB. Mail comes first.
const HASHED_MAX: usize = 2;

/// How long a sign-in may wait for its turn and for a quorum.
const SIGN_IN_TIME_MAX: Duration = Duration::from_secs(10);

/// A sign-in that fails is answered so long after it began, whatever it took: the failure of somebody who
/// exists is entered in the log first, and the time that takes would tell that they do.
const WRONG_AFTER: Duration = Duration::from_secs(2);

/// How often a quorum is looked for meanwhile.
const QUORUM_POLL: Duration = Duration::from_millis(100);

/// Sign-ins that one client may try within [`CLIENT_PERIOD`], whatever account they are for: who
/// tries one password on many accounts is slowed down too.
const CLIENT_TRIES_MAX: u32 = 20;
const CLIENT_PERIOD: Duration = Duration::from_secs(60);

/// One for a node.
pub struct Doorkeeper {
    turns: Arc<Semaphore>,
    clients: Mutex<Recent<Network>>,
}

/// What somebody typed.
pub struct Attempt<'a> {
    pub name: &'a str,
    pub password: &'a str,
    /// Of the second factor; empty where none is asked for.
    pub code: &'a str,
    pub from: IpAddr,
}

/// Why somebody is not signed in. The first tells nothing of what was wrong.
#[derive(Debug, thiserror::Error)]
pub enum NotSignedIn {
    #[error(
        "That did not work. Name, password or code is wrong, or there were too many tries: then wait a quarter of an hour."
    )]
    Wrong,
    #[error("Too many tries from your address. Wait a minute.")]
    TooOften,
    #[error("Nobody can be signed in now: {0}. Held mail is safe. Try again in a moment.")]
    Unable(String),
}

impl NotSignedIn {
    /// For AUTH (RFC 4954 section 6).
    pub(crate) fn to_reply(&self) -> reply::Reply {
        use reply::Reply;
        match self {
            Self::Wrong => Reply::new(535, 7, 8, "name or secret is wrong"),
            Self::TooOften => Reply::new(454, 7, 0, "too many tries; wait a minute"),
            Self::Unable(why) => Reply::new(454, 7, 0, format!("not now: {why}")),
        }
    }
}

impl Default for Doorkeeper {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(HASHED_MAX)),
            clients: Mutex::default(),
        }
    }
}

impl Doorkeeper {
    /// Who it is, if name, password and code are right.
    pub async fn sign_in(
        &self,
        cluster: &Cluster,
        attempt: &Attempt<'_>,
    ) -> Result<Account, NotSignedIn> {
        late(self.identify(cluster, attempt, None)).await
    }

    /// The same of an account without a second factor, for `secret` to become it: the code is that of the
    /// new device, and is used up.
    pub async fn enrol(
        &self,
        cluster: &Cluster,
        attempt: &Attempt<'_>,
        secret: &[u8],
    ) -> Result<Account, NotSignedIn> {
        late(self.identify(cluster, attempt, Some(secret))).await
    }

    async fn identify(
        &self,
        cluster: &Cluster,
        attempt: &Attempt<'_>,
        new: Option<&[u8]>,
    ) -> Result<Account, NotSignedIn> {
        if !self.may_try(attempt.from) {
            return Err(NotSignedIn::TooOften);
        }
        let until = Instant::now() + SIGN_IN_TIME_MAX;
        let name = attempt.name.trim().to_lowercase();
        let account = self.known(cluster, &name)?;
        let good = self.is_right(until, account.as_ref(), attempt).await?;
        let Some(account) = account else {
            // As the failure of somebody who exists does.
            while !cluster.has_quorum() {
                if Instant::now() >= until {
                    let why = "no quorum of the nodes can be reached";
                    return Err(NotSignedIn::Unable(why.to_owned()));
                }
                tokio::time::sleep(QUORUM_POLL).await;
            }
            return Err(NotSignedIn::Wrong);
        };
        let from = attempt.from.to_string();
        // The log would say the same, and a guesser must not fill it.
        if account.is_locked_for(&from, now()) {
            return Err(NotSignedIn::Wrong);
        }
        let step = match (&account.second_factor, new) {
            (Some(secret), None) => code_fits(secret, attempt.code),
            (None, Some(secret)) => code_fits(secret, attempt.code),
            (None, None) => Some(0),
            // The device that they have is switched off first.
            (Some(_), Some(_)) => None,
        };
        let change = AccountChange::SignIn {
            good: good && step.is_some(),
            step: step.unwrap_or(0),
            from: from.clone(),
        };
        let person = Person {
            who: name.clone(),
            from,
        };
        let signed_in = matches!(change, AccountChange::SignIn { good: true, .. });
        let command = Command::OfAccount { name, change };
        // A good password of a locked account is refused here, and a code that was used.
        match person.propose(cluster, command, until).await {
            Ok(Reply::Done) if signed_in => Ok(account),
            Ok(_) => Err(NotSignedIn::Wrong),
            Err(error) => Err(NotSignedIn::Unable(error.to_string())),
        }
    }

    /// Who it is, for a program that has a name and a secret: a token of the account that is good for
    /// what is `wanted`, or its password where there is no second factor. And what it showed, to be looked
    /// at again while its session lasts.
    pub async fn program(
        &self,
        cluster: &Cluster,
        login: &Login,
        from: IpAddr,
        wanted: Scopes,
    ) -> Result<(Account, Credentials), NotSignedIn> {
        if token::is_token(&login.secret) {
            if !self.may_try(from) {
                return Err(NotSignedIn::TooOften);
            }
            return match bearer(cluster, &login.secret, wanted, now()) {
                Ok((account, token)) if account.name == login.user.trim().to_lowercase() => {
                    let shown = Credentials::token(&account, token.id, wanted);
                    Ok((account, shown))
                }
                Ok(_) | Err(TokenError::Unknown | TokenError::Scope) => Err(NotSignedIn::Wrong),
                Err(why @ TokenError::Unreadable) => Err(NotSignedIn::Unable(why.to_string())),
            };
        }
        // Without its code a password is not enough where there is one.
        let attempt = Attempt {
            name: &login.user,
            password: &login.secret,
            code: "",
            from,
        };
        let account = self.sign_in(cluster, &attempt).await?;
        let shown = Credentials::password(&account);
        Ok((account, shown))
    }

    /// The hash of a new password.
    pub async fn hash(&self, password: &str) -> Result<String, NotSignedIn> {
        let until = Instant::now() + SIGN_IN_TIME_MAX;
        let password = password.to_owned();
        self.take_turn(until, move || password::hash(&password))
            .await?
            .map_err(NotSignedIn::Unable)
    }

    fn may_try(&self, client: IpAddr) -> bool {
        Recent::client_within(&self.clients, client, CLIENT_PERIOD, CLIENT_TRIES_MAX)
    }

    fn known(&self, cluster: &Cluster, name: &str) -> Result<Option<Account>, NotSignedIn> {
        if !is_account_name(name) {
            return Ok(None);
        }
        query::account(&cluster.view(), name).map_err(unreadable)
    }

    /// Takes as long whether the account exists or not.
    async fn is_right(
        &self,
        until: Instant,
        account: Option<&Account>,
        attempt: &Attempt<'_>,
    ) -> Result<bool, NotSignedIn> {
        let password = attempt.password.to_owned();
        let hash = account.map(|account| account.password.clone());
        self.take_turn(until, move || {
            password::is_right(&password, hash.as_deref())
        })
        .await
    }

    async fn take_turn<T: Send + 'static>(
        &self,
        until: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotSignedIn> {
        let busy = || NotSignedIn::Unable("too many people are signing in".to_owned());
        let turn = tokio::time::timeout_at(until, self.turns.clone().acquire_owned());
        let turn = turn.await.map_err(|_| busy())?.map_err(|_| busy())?;
        // The work goes on without a client that has gone, and keeps its turn: else whoever connects
        // and leaves has any number of passwords hashed at once.
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| NotSignedIn::Unable(error.to_string()))
    }
}

/// What comes of a sign-in, and if it is wrong, not before its time.
async fn late<T>(tried: impl Future<Output = Result<T, NotSignedIn>>) -> Result<T, NotSignedIn> {
    let answer_at = Instant::now() + WRONG_AFTER;
    let tried = tried.await;
    if matches!(tried, Err(NotSignedIn::Wrong)) {
        tokio::time::sleep_until(answer_at).await;
    }
    tried
}

fn unreadable(error: KvError) -> NotSignedIn {
    tracing::error!("the accounts cannot be read: {error}");
    NotSignedIn::Unable("the accounts cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_client_that_leaves_does_not_give_back_the_turn_of_its_password() {
        let doorkeeper = Doorkeeper::default();
        let until = Instant::now() + SIGN_IN_TIME_MAX;
        let (finish, finished) = mpsc::channel::<()>();
        let (begun, begin) = tokio::sync::oneshot::channel();
        let hashing = doorkeeper.take_turn(until, move || {
            let _heard = begun.send(());
            finished.recv()
        });
        tokio::select! {
            _ = hashing => unreachable!("it waits to be told"),
            begun = begin => begun.unwrap(),
        }
        assert_eq!(doorkeeper.turns.available_permits(), HASHED_MAX - 1);
        finish.send(()).unwrap();
        let all = doorkeeper
            .turns
            .acquire_many(u32::try_from(HASHED_MAX).unwrap());
        assert!(all.await.is_ok(), "and it is given back in the end");
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_a_wrong_sign_in_takes_tells_nothing() {
        for took in [0, 50, 1_900].map(Duration::from_millis) {
            let begun = Instant::now();
            let wrong = late(async {
                tokio::time::sleep(took).await;
                Err::<(), _>(NotSignedIn::Wrong)
            });
            assert!(wrong.await.is_err());
            assert_eq!(begun.elapsed(), WRONG_AFTER);
        }
        let begun = Instant::now();
        assert!(late(async { Ok(()) }).await.is_ok());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
