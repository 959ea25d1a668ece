//! Asks the primary whether it takes mail for a recipient, and tells the cluster what it said.
//!
//! Strangers choose whom to ask about, and each question costs the primary a connection. So one
//! name is asked about once at a time, a domain a few times at once, and a primary that does not
//! answer is left alone for a moment.
//!
//! They also choose how a name is written. What the cluster knows is kept for all its spellings, and
//! U+212A KELVIN SIGN is a spelling of `k`: a no to `\u{212A}arl` is none to `karl`. So only a no to the
//! name as it is kept is told to the cluster, and only the same spelling shares an answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_ledger::{Command, Doubt, KvError, PROOF_KEPT, Standing, doubt, query};
use holdfast_mail::address::LOCAL_PART_OCTETS_MAX;
use holdfast_mail::network::circles;
use holdfast_mail::{
    Address, BodyRef, BodyType, Domain, Envelope, MessageId, Network, Recipient, ReversePath,
};
use holdfast_smtp::client::Fate;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::destination::Destination;
use crate::net::dns::{Exchangers, Resolver};
use crate::recent::Recent;
use crate::replica::{Cluster, now, random_id};
use crate::switchboard::Switchboard;

/// How long the primary may take from the connection to its answer. The client waits five minutes
/// for the reply to RCPT (RFC 5321 section 4.5.3.2.3), and may have a hundred recipients.
const ASK_TIME_MAX: Duration = Duration::from_secs(10);

/// How long one step of the session's opening may take, so that a second address can be tried.
const OPENING_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long the cluster may take to note an answer. Without a quorum the message would not be
/// accepted either.
const NOTE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a sender waits while a name is looked up; after that its mail is taken.
const LOOK_UP_TIME_MAX: Duration = Duration::from_secs(3);

/// How long a primary that did not answer is not asked again.
const SILENCE_KEPT: Duration = Duration::from_secs(10);

/// Questions about one domain under way at a time on a node: connections that the primary then has
/// less for other mail.
const QUESTIONS_MAX: usize = 4;

/// Of them for one client: whoever makes names up must not have the others wait until they are put off.
const QUESTIONS_PER_CLIENT_MAX: usize = 2;

/// Questions that one client brings about within [`CLIENT_PERIOD`], of whatever domains: more than a sender's
/// mail to new recipients, and no way to have a primary asked without end.
const CLIENT_QUESTIONS_MAX: u32 = 120;
const CLIENT_PERIOD: Duration = Duration::from_secs(60);

/// Domains under question, or with a silent primary, that are remembered. Beyond it nothing more
/// is asked until some are done.
const DOMAINS_MAX: usize = 1_000;

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Taken,
    Refused(String),
    /// Nothing that can be relied on, and why.
    Silent(String),
}

/// One for a node.
pub(super) struct Inquiry {
    cluster: Cluster,
    resolver: Arc<Resolver>,
    domains: Mutex<HashMap<Domain, Questions>>,
    clients: Mutex<Recent<Network>>,
}

#[derive(Default)]
struct Questions {
    /// By the local part as it was written.
    open: HashMap<String, Question>,
    /// When the primary last failed to answer.
    silent: Option<Instant>,
}

struct Question {
    answer: watch::Receiver<Option<Answer>>,
    /// Who brought it about.
    client: IpAddr,
}

impl Inquiry {
    pub(super) fn new(cluster: Cluster, resolver: Resolver) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            resolver: Arc::new(resolver),
            domains: Mutex::default(),
            clients: Mutex::default(),
        })
    }

    /// Asks, or waits for the answer to the same question. The question goes on without the
    /// client: its answer is worth as much to the next one.
    pub(super) async fn ask(
        self: &Arc<Self>,
        address: &Address,
        domain: &Domain,
        client: IpAddr,
    ) -> Answer {
        let mut answer = match self.begin(address, domain, client) {
            Ok(answer) => answer,
            Err(why) => return Answer::Silent(why.to_owned()),
        };
        match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| Answer::Silent("the question was given up".to_owned()))
    }

    fn begin(
        self: &Arc<Self>,
        address: &Address,
        domain: &Domain,
        client: IpAddr,
    ) -> Result<watch::Receiver<Option<Answer>>, &'static str> {
        let name = address.local().to_owned();
        let mut domains = self.domains();
        if domains.len() >= DOMAINS_MAX {
            domains.retain(|_, questions| !questions.is_over());
        }
        if domains.len() >= DOMAINS_MAX && !domains.contains_key(domain) {
            return Err("too many domains are asked about");
        }
        let questions = domains.entry(domain.clone()).or_default();
        if let Some(question) = questions.open.get(&name) {
            return Ok(question.answer.clone());
        }
        if let Some(why) = questions.are_too_many(client) {
            return Err(why);
        }
        if !Recent::client_within(&self.clients, client, CLIENT_PERIOD, CLIENT_QUESTIONS_MAX) {
            return Err("too much is asked from your address");
        }
        let (answered, answer) = watch::channel(None);
        let question = Question {
            answer: answer.clone(),
            client,
        };
        questions.open.insert(name.clone(), question);
        drop(domains);
        let (inquiry, address, domain) = (self.clone(), address.clone(), domain.clone());
        tokio::spawn(async move {
            let said = timeout(ASK_TIME_MAX, inquiry.question(&address, &domain)).await;
            let said = said.unwrap_or_else(|_| Err("it took too long".to_owned()));
            let answer = match &said {
                Ok(said) => inquiry.note(&address, &domain, said).await,
                Err(why) => Answer::Silent(why.clone()),
            };
            if let Answer::Silent(why) = &answer {
                tracing::info!(%domain, "the primary did not say whether it has a recipient: {why}");
            }
            let mut domains = inquiry.domains();
            if let Some(questions) = domains.get_mut(&domain) {
                questions.open.remove(&name);
                questions.silent = said.is_err().then(Instant::now);
                if questions.is_over() {
                    domains.remove(&domain);
                }
            }
            drop(domains);
            answered.send_replace(Some(answer));
        });
        Ok(answer)
    }

    /// Whether the DNS says that there is no such host. One that cannot be looked up now may be.
    pub(super) async fn is_no_host(&self, host: &Domain) -> bool {
        let asked = self.resolver.exchangers(host.as_str());
        let asked = timeout(LOOK_UP_TIME_MAX, asked).await;
        matches!(asked, Ok(Ok(Exchangers::NoDomain)))
    }

    /// What the primary said of the address, and, if that is due, of one that nobody has.
    async fn question(&self, address: &Address, domain: &Domain) -> Result<Said, String> {
        let destination = Destination {
            cluster: self.cluster.clone(),
            resolver: self.resolver.clone(),
            domain: domain.clone(),
            switchboard: Switchboard::default(),
            relay: None,
        };
        let mut asked = vec![address.clone()];
        if self.must_try_nobody(domain).map_err(|e| e.to_string())? {
            let nobody = format!("no-such-mailbox-{:032x}@{domain}", random_id());
            asked.push(Address::parse(&nobody, false).map_err(|e| e.to_string())?);
        }
        let opened = destination.open(OPENING_WAIT_MAX).await;
        let mut connection = opened.map_err(|why| why.to_string())?;
        let outcome = connection.ask(question(asked)).await;
        tokio::spawn(connection.quit());
        let outcome = outcome.ok_or_else(|| "it ended the session".to_owned())?;
        let mut answers = outcome.results.into_iter();
        let mut next = || answers.next().map(|result| (result.fate, result.reply));
        match (next(), next()) {
            _ if outcome.connection_failed => Err("the connection was lost".to_owned()),
            (Some(name), nobody) => Ok(Said { name, nobody }),
            (None, _) => Err("nothing was asked".to_owned()),
        }
    }

    fn must_try_nobody(&self, domain: &Domain) -> Result<bool, KvError> {
        let view = self.cluster.view();
        let policy = query::policy(&view, domain)?;
        Ok(query::known(&view, domain, "")?.is_none_or(|known| known.at.plus(policy.yes) <= now()))
    }

    /// Tells the cluster, and says what follows for the recipient.
    async fn note(&self, address: &Address, domain: &Domain, said: &Said) -> Answer {
        if let Some((fate @ (Fate::Known | Fate::Refused), reply)) = &said.nobody {
            let takes = *fate == Fate::Known;
            self.learn(domain, "", takes, reply).await;
            // It takes everybody: what it says of one says nothing.
            if takes {
                return Answer::Taken;
            }
        }
        let (fate, reply) = &said.name;
        match fate {
            Fate::Known => {
                self.learn(domain, address.local(), true, reply).await;
                Answer::Taken
            }
            Fate::Refused if self.is_doubtful(address, domain) => Answer::Silent(format!(
                "it is not believed yet that a known recipient is gone: {reply}"
            )),
            Fate::Refused => {
                if is_as_kept(address.local()) {
                    self.learn(domain, address.local(), false, reply).await;
                }
                Answer::Refused(reply.clone())
            }
            Fate::Delivered | Fate::Deferred => Answer::Silent(reply.clone()),
        }
    }

    /// A primary that comes back half-built refuses those it took mail for before. As long as its
    /// refusals of mail are not believed, such a no is not either.
    fn is_doubtful(&self, address: &Address, domain: &Domain) -> bool {
        let view = self.cluster.view();
        let doubtful = || -> Result<bool, KvError> {
            let standing = query::standing(&view, domain, address.local(), now())?;
            let policy = query::policy(&view, domain)?;
            let health = query::health(&view, domain)?;
            let doubt = doubt(policy.probation, &health, now());
            let is_doubted = match doubt {
                Some(Doubt::TooNew | Doubt::RefusesMore) => true,
                // It was given no mail lately, which proves nothing, or it was down until now.
                Some(Doubt::TakesNoMail) => query::reach(&view, domain)?.is_some_and(|reach| {
                    reach.down.is_some() || now().since(reach.since) < PROOF_KEPT
                }),
                Some(Doubt::Endless) | None => false,
            };
            Ok(standing == Standing::TakenUnlessRefused && is_doubted)
        };
        doubtful().unwrap_or(true)
    }

    async fn learn(&self, domain: &Domain, name: &str, takes: bool, reply: &str) {
        // The ledger keeps no longer name.
        if name.len() > LOCAL_PART_OCTETS_MAX {
            return;
        }
        let command = Command::Learn {
            domain: domain.clone(),
            name: name.to_owned(),
            node: self.cluster.me().id,
            takes,
            reply: reply.to_owned(),
        };
        let noted = self
            .cluster
            .propose(command, Instant::now() + NOTE_TIME_MAX);
        match noted.await {
            Ok(holdfast_ledger::Reply::Refused(why)) => tracing::warn!(%domain, "{why}"),
            Ok(_) => {}
            Err(error) => {
                tracing::info!(%domain, "an answer of the primary was not noted: {error}")
            }
        }
    }

    fn domains(&self) -> MutexGuard<'_, HashMap<Domain, Questions>> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the cluster keeps what it knows of the name under this very spelling.
fn is_as_kept(name: &str) -> bool {
    name.to_lowercase() == name
}

impl Questions {
    /// Why no more is asked for this client now, if so.
    fn are_too_many(&self, client: IpAddr) -> Option<&'static str> {
        if self.is_silent() {
            return Some("the primary did not answer a moment ago");
        }
        if self.open.len() >= QUESTIONS_MAX {
            return Some("the primary is being asked about others");
        }
        // All of a site is one here: there are few places.
        let site = |client| circles(client).next();
        let open = self.open.values();
        let mine = open.filter(|question| site(question.client) == site(client));
        (mine.count() >= QUESTIONS_PER_CLIENT_MAX)
            .then_some("the primary is being asked about others from your address")
    }

    fn is_silent(&self) -> bool {
        self.silent.is_some_and(|at| at.elapsed() < SILENCE_KEPT)
    }

    fn is_over(&self) -> bool {
        self.open.is_empty() && !self.is_silent()
    }
}

/// What the primary said, of the name and of one that nobody has.
struct Said {
    name: (Fate, String),
    nobody: Option<(Fate, String)>,
}

/// The envelope of a message that is never sent. With the null reverse-path, so that a primary that
/// asks the sender's server back does not go round in circles.
fn question(asked: Vec<Address>) -> Envelope {
    let id = MessageId::new(now(), random_id());
    let recipients = asked.into_iter().map(|address| Recipient {
        address,
        notify: None,
        orcpt: None,
    });
    Envelope {
        id,
        reverse_path: ReversePath::Null,
        recipients: recipients.collect(),
        body: BodyRef {
            id,
            len: 0,
            digest: [0; 32],
        },
        received_at: now(),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        helo: String::new(),
        client: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_is_learnt_of_the_spelling_that_it_was_said_of() {
        for name in ["karl", "j\u{fc}rgen", "\"a b\"", "joe+x"] {
            assert!(is_as_kept(name), "{name}");
        }
        // The last are KELVIN SIGN and a letter that grows.
        for name in ["Karl", "J\u{dc}RGEN", "\u{212a}arl", "\u{130}"] {
            assert!(!is_as_kept(name), "{name}");
        }
    }

    #[test]
    fn who_makes_names_up_leaves_room_for_the_questions_of_others() {
        let mut questions = Questions::default();
        let mut ask = |name: &str, client: &str| {
            let client = client.parse().unwrap();
            let refused = questions.are_too_many(client);
            if refused.is_none() {
                let (_, answer) = watch::channel(None);
                let question = Question { answer, client };
                questions.open.insert(name.to_owned(), question);
            }
            refused.is_none()
        };
        assert!(ask("1", "2001:db8::1") && ask("2", "2001:db8:0:1::1"));
        assert!(!ask("3", "2001:db8:0:2::1"), "the same site");
        assert!(ask("3", "192.0.2.1") && ask("4", "192.0.2.2"));
        assert!(!ask("5", "192.0.2.3"), "the primary's connections");
    }
}
