//! `holdfast domain …`: the customers' domains.

use holdfast_proto::admin::{
    AskersSetRequest, Domain as Shown, DomainName, DomainSetRequest, DomainZoneRequest, Empty,
    Policy, RecipientsSetRequest, UnlearnRequest,
};
use serde_json::{Value, json};

use crate::cli::{
    self, Deliver, Domain, DomainChange, Global, Recipients, Taken, Verdicts, WhenFull, WhileUp,
    YesNo,
};
use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Now, Output};
use crate::route;

/// Whether the domain may, or must, be known already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Must,
    MustNot,
    Either,
}

pub(crate) async fn run(global: &Global, command: Domain, output: Output) -> Result<Exit, Failure> {
    let mut client = client::connect(global).await?;
    match command {
        Domain::Add(asked) => {
            let asked = DomainChange {
                name: asked.name,
                primary: Some(asked.primary),
                policy: asked.policy,
                subscription: asked.subscription,
                dry_run: asked.dry_run,
            };
            changed(&mut client, asked, Known::MustNot, "added", output).await?;
        }
        Domain::Set(asked) => changed(&mut client, asked, Known::Must, "changed", output).await?,
        Domain::List => {
            let list = client::answer(
                "the domains are not known",
                client.domains(client::request(Empty {})),
            )
            .await?;
            if output.is_json() {
                // One object a line: there may be more domains than a reader wants in memory.
                for domain in &list.domains {
                    output.json("domain/v1", &as_json(domain))?;
                }
            } else if list.domains.is_empty() {
                eprintln!("No domain yet. Add one: holdfast domain add NAME --primary HOST:PORT");
            } else {
                output.table(&as_table(&list.domains))?;
            }
        }
        Domain::Show { name } => {
            let asked = DomainName {
                name,
                dry_run: false,
            };
            let domain = client::answer(
                "the domain is not known",
                client.domain_get(client::request(asked)),
            )
            .await?;
            if output.is_json() {
                output.json("domain/v1", &as_json(&domain))?;
            } else {
                let says = domain.says.clone();
                output.table(&as_table(&[domain]))?;
                for sentence in says {
                    output.line(sentence)?;
                }
            }
        }
        Domain::Verdicts(asked) => verdicts(&mut client, asked, output).await?,
        Domain::Recipients(asked) => recipients(&mut client, asked, output).await?,
        Domain::Route(asked) => route::route(&mut client, asked, output).await?,
        Domain::Askers { name, who } => {
            let failed = format!("who may ask for {name} was not changed");
            let request = AskersSetRequest {
                domain: name.clone(),
                anybody: who == ["anybody"],
                networks: match &who[..] {
                    [word] if word == "anybody" || word == "nobody" => Vec::new(),
                    networks => networks.to_vec(),
                },
            };
            client::answer(&failed, client.askers_set(client::request(request))).await?;
            if output.is_json() {
                output.json("domain-askers/v1", &json!({"name": name, "who": who}))?;
            } else {
                let who = who.join(", ");
                output.line(format!("Asking for the held mail of {name}: {who}."))?;
            }
        }
        Domain::Dns { name, hosts } => {
            let failed = format!("the zone lines of {name} are not known");
            let request = DomainZoneRequest {
                name: name.clone(),
                hosts: hosts.unwrap_or(0),
            };
            let zone =
                client::answer(&failed, client.domain_zone(client::request(request))).await?;
            if output.is_json() {
                let lines = zone.text.lines().filter(|line| !line.starts_with(';'));
                let lines: Vec<_> = lines.collect();
                output.json("domain-dns/v1", &json!({"name": name, "records": lines}))?;
            } else {
                output.line(zone.text.trim_end())?;
            }
        }
        Domain::Check { name } => return check(&mut client, name, output).await,
        Domain::Remove { name, dry_run } => {
            let failed = format!("{name} was not removed");
            let asked = DomainName {
                name: name.clone(),
                dry_run,
            };
            client::answer(&failed, client.domain_remove(client::request(asked))).await?;
            if output.is_json() {
                output.json(
                    "domain-remove/v1",
                    &json!({"name": name, "dry_run": dry_run}),
                )?;
            } else if dry_run {
                output.line(format!("{name} could be removed. Nothing was changed."))?;
            } else {
                output.line(format!(
                    "{name} removed; mail for it is refused from now on."
                ))?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn check(client: &mut Client, name: String, output: Output) -> Result<Exit, Failure> {
    let failed = format!("{name} was not checked");
    let asked = DomainName {
        name: name.clone(),
        dry_run: false,
    };
    // The nodes wait for DNS servers that may not answer.
    let asked = client.domain_check(client::request(asked));
    let found = asked
        .await
        .map_err(|status| Failure::from_status(&failed, &status))?
        .into_inner();
    let words = ["fault", "warning", "good"];
    let word = |weight: u32| words[(weight as usize).min(words.len() - 1)];
    // A check that nobody could make has not passed.
    let is_good =
        !found.findings.is_empty() && found.findings.iter().all(|finding| finding.weight > 0);
    let nodes = |nodes: &[String]| nodes.join(", ");
    if output.is_json() {
        let findings: Vec<_> = found
            .findings
            .iter()
            .map(|f| json!({"weight": word(f.weight), "what": f.what, "fix": f.fix, "nodes": f.nodes}))
            .collect();
        let silent: Vec<_> = found
            .silent
            .iter()
            .map(|silent| json!({"node": silent.node, "why": silent.why}))
            .collect();
        let value = json!({"name": name, "good": is_good, "findings": findings, "silent": silent});
        output.json("domain-check/v1", &value)?;
    } else {
        for finding in &found.findings {
            let what = output::plain(&finding.what);
            output.line(format!(
                "{:<8} {what}  [{}]",
                word(finding.weight),
                nodes(&finding.nodes)
            ))?;
            if !finding.fix.is_empty() {
                output.line(format!("         -> {}", output::plain(&finding.fix)))?;
            }
        }
        for silent in &found.silent {
            output.line(format!(
                "unknown  {} did not look: {}",
                silent.node, silent.why
            ))?;
        }
    }
    Ok(if is_good { Exit::Done } else { Exit::Unhealthy })
}

/// Sets a domain's primary through any node.
pub(crate) async fn set(
    client: &mut Client,
    asked: &DomainChange,
    known: Known,
) -> Result<Shown, Failure> {
    let request = DomainSetRequest {
        name: asked.name.clone(),
        primary: asked.primary.clone().unwrap_or_default(),
        policy: Some(policy(asked.policy)),
        must_be_new: known == Known::MustNot,
        must_exist: known == Known::Must,
        dry_run: asked.dry_run,
        plan: asked.subscription.plan.clone().map(|plan| match &plan[..] {
            "none" => String::new(),
            _ => plan,
        }),
        extra_steps: asked.subscription.extra_steps,
        follow_plan: asked.subscription.follow_plan,
    };
    let failed = format!("{} was not set", asked.name);
    client::answer(&failed, client.domain_set(client::request(request))).await
}

/// Prints the list, or changes it.
async fn recipients(client: &mut Client, asked: Recipients, output: Output) -> Result<(), Failure> {
    let failed = format!("the recipients of {} were not changed", asked.name);
    let prints =
        asked.add.is_empty() && asked.remove.is_empty() && asked.import.is_none() && !asked.clear;
    if !prints {
        let mut add = asked.add;
        if let Some(file) = &asked.import {
            let text = if file.as_os_str() == "-" {
                std::io::read_to_string(std::io::stdin())
            } else {
                std::fs::read_to_string(file)
            };
            let text = text.map_err(|error| {
                Failure::new(&failed, format!("{}: {error}", file.display()))
                    .fix("name a file with one name a line, or - for standard input")
            })?;
            let lines = text.lines().map(str::trim);
            add.extend(
                lines
                    .filter(|l| !l.is_empty() && !l.starts_with('#'))
                    .map(str::to_owned),
            );
        }
        let (added, removed) = (add.len() as u64, asked.remove.len() as u64);
        let request = RecipientsSetRequest {
            domain: asked.name.clone(),
            add,
            remove: asked.remove,
            clear: asked.clear,
        };
        client::answer(&failed, client.recipients_set(client::request(request))).await?;
        if output.is_json() {
            let value = json!({
                "domain": asked.name,
                "added": added,
                "removed": removed,
                "cleared": asked.clear,
            });
            output.json("recipients/v1", &value)?;
        } else {
            // Names may be there, or missing, already: what was asked for is so now.
            let emptied = match (asked.clear, added) {
                (false, _) => "",
                (true, 0) => "The list was emptied: while it is empty, mail for anybody is taken. ",
                (true, _) => "The list was emptied first. ",
            };
            output.line(format!(
                "{emptied}{} to add and {} to remove: the recipients of {} are as you asked.",
                output::count(added, "name"),
                output::count(removed, "name"),
                asked.name
            ))?;
        }
        return Ok(());
    }
    let failed = "the recipients could not be listed";
    let request = DomainName {
        name: asked.name.clone(),
        dry_run: false,
    };
    let mut pages = client
        .recipients_list(client::request(request))
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
        .into_inner();
    let mut is_empty = true;
    while let Some(page) = pages
        .message()
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
    {
        for name in page.names {
            is_empty = false;
            if output.is_json() {
                output.json("recipient/v1", &json!({"name": name}))?;
            } else {
                output.line(name)?;
            }
        }
    }
    if is_empty && !output.is_json() {
        eprintln!(
            "The list is empty. Add to it: holdfast domain recipients {} --add NAME,NAME",
            asked.name
        );
    }
    Ok(())
}

/// Prints what the primary said about its recipients, or has it forgotten.
async fn verdicts(client: &mut Client, asked: Verdicts, output: Output) -> Result<(), Failure> {
    let domain = asked.name;
    if asked.flush || !asked.forget.is_empty() {
        let failed = format!("nothing about the recipients of {domain} was forgotten");
        let request = UnlearnRequest {
            domain: domain.clone(),
            names: asked.forget.clone(),
        };
        client::answer(&failed, client.unlearn(client::request(request))).await?;
        if output.is_json() {
            let value = json!({"domain": domain, "forgotten": asked.forget, "all": asked.flush});
            output.json("verdicts/v1", &value)?;
            return Ok(());
        }
        let whom = if asked.flush {
            "every recipient".to_owned()
        } else {
            asked.forget.join(", ")
        };
        output.line(format!(
            "What the primary of {domain} said of {whom} is not remembered; it is asked when mail comes."
        ))?;
        return Ok(());
    }
    let failed = "what the primary said is not known";
    let request = DomainName {
        name: domain,
        dry_run: false,
    };
    let mut pages = client
        .known_list(client::request(request))
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
        .into_inner();
    let mut table = output::table(
        &["RECIPIENT", "SAID", "AGE", "NODE", "NOW", "REPLY"],
        &["AGE"],
    );
    while let Some(page) = pages
        .message()
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
    {
        let now = Now(page.now_ms);
        for known in page.list {
            let said = if known.takes { "yes" } else { "no" };
            if output.is_json() {
                let value = json!({
                    "name": if known.name.is_empty() { Value::Null } else { json!(known.name) },
                    "said": said,
                    "at": output::rfc3339(known.at_ms),
                    "node": known.node,
                    "now": known.standing,
                    "reply": known.reply,
                });
                output.json("verdict/v1", &value)?;
                continue;
            }
            table.add_row(vec![
                if known.name.is_empty() {
                    "(a name that nobody has)".to_owned()
                } else {
                    known.name
                },
                said.to_owned(),
                now.age(known.at_ms),
                known.node,
                known.standing,
                output::plain(&known.reply),
            ]);
        }
    }
    if output.is_json() {
        return Ok(());
    }
    if table.is_empty() {
        eprintln!("Nothing that its primary said is remembered.");
        return Ok(());
    }
    output.table(&table)?;
    Ok(())
}

fn policy(asked: cli::Policy) -> Policy {
    Policy {
        hold_ms: asked.hold,
        delay_ms: asked.delay_notice,
        probation_ms: asked.probation,
        quota_bytes: asked.quota,
        quota_messages: asked.quota_messages,
        full_for_good: asked.when_full.map(|when| when == WhenFull::Never),
        listed_only: asked.recipients.map(|which| which == Taken::Listed),
        delimiter: asked.delimiter,
        verify: asked.recipients.map(|which| which == Taken::Verify),
        yes_ms: asked.keep_yes,
        no_ms: asked.keep_no,
        attended: asked.deliver.map(|when| when != Deliver::Always),
        at_host: asked.deliver.map(|when| when == Deliver::SignedInHost),
        probe_ms: asked.probe,
        ping: asked.ping.map(|whether| whether == YesNo::Yes),
        atrn: asked.atrn.map(|whether| whether == YesNo::Yes),
        defer: asked.while_up.map(|what| what == WhileUp::Defer),
    }
}

async fn changed(
    client: &mut Client,
    asked: DomainChange,
    known: Known,
    done: &str,
    output: Output,
) -> Result<(), Failure> {
    if known == Known::Must && asked.names_nothing() {
        let failed = format!("{} was not {done}", asked.name);
        return Err(Failure::new(failed, "nothing is named that should change")
            .exit(Exit::Usage)
            .fix("see `holdfast domain set --help`"));
    }
    let domain = set(client, &asked, known).await?;
    if output.is_json() && asked.dry_run {
        output.json("domain/v1", &would_be(&domain, &asked))?;
    } else if output.is_json() {
        // With all that holds for it now.
        let name = DomainName {
            name: asked.name.clone(),
            dry_run: false,
        };
        let failed = format!("{} was {done}; how it stands is not known", asked.name);
        let domain = client::answer(&failed, client.domain_get(client::request(name))).await?;
        let mut value = as_json(&domain);
        value["dry_run"] = false.into();
        output.json("domain/v1", &value)?;
    } else if asked.dry_run {
        output.line(format!(
            "{} could be {done}. Nothing was changed.",
            asked.name
        ))?;
    } else {
        output.line(format!(
            "{} {done}; its primary is {}.",
            domain.name, domain.primary
        ))?;
    }
    Ok(())
}

fn as_table(domains: &[Shown]) -> comfy_table::Table {
    let mut table = output::table(
        &["DOMAIN", "PRIMARY", "HELD", "BYTES", "SINCE"],
        &["HELD", "BYTES", "SINCE"],
    );
    for domain in domains {
        table.add_row(vec![
            domain.name.clone(),
            domain.primary.clone(),
            domain.held_messages.to_string(),
            output::bytes(domain.held_bytes),
            Now(domain.now_ms).age(domain.created_at_ms),
        ]);
    }
    table
}

/// What was asked for, of which nothing was done: the rest is not known.
fn would_be(domain: &Shown, asked: &DomainChange) -> Value {
    let mut value = json!({
        "name": domain.name,
        "primary": domain.primary,
        "dry_run": true,
    });
    if asked.policy != cli::Policy::default() {
        value["policy"] = policy_as_json(&policy(asked.policy));
    }
    if let Some(plan) = &asked.subscription.plan {
        value["plan"] = json!((plan != "none").then_some(plan));
    }
    if let Some(steps) = asked.subscription.extra_steps {
        value["extra_steps"] = steps.into();
    }
    if asked.subscription.follow_plan {
        value["follow_plan"] = true.into();
    }
    value
}

fn as_json(domain: &Shown) -> Value {
    json!({
        "name": domain.name,
        "primary": domain.primary,
        "held_messages": domain.held_messages,
        "held_bytes": domain.held_bytes,
        "created_at": output::rfc3339(domain.created_at_ms),
        "refused_messages": domain.refused_messages,
        "policy": domain.policy.as_ref().map(policy_as_json),
        "route": domain.route.as_ref().map(route::as_json),
        "plan": (!domain.plan.is_empty()).then_some(&domain.plan),
        "extra_steps": domain.extra_steps,
        "says": domain.says,
    })
}

/// What there is of it: seconds, and `null` for what has no end or no limit.
fn policy_as_json(policy: &Policy) -> Value {
    let seconds = |ms: u64| match ms {
        0 => Value::Null,
        ms => json!(ms as f64 / 1000.0),
    };
    let limit = |number: u64| json!((number > 0).then_some(number));
    let recipients = match (policy.verify, policy.listed_only) {
        (None, None) => None,
        (Some(true), _) => Some("verify"),
        (_, Some(true)) => Some("listed"),
        _ => Some("any"),
    };
    let deliver = match (policy.attended, policy.at_host) {
        (None, None) => None,
        (Some(true), Some(true)) => Some("signed-in-host"),
        (Some(true), _) => Some("signed-in"),
        _ => Some("always"),
    };
    let probation = |ms: u64| match ms {
        u64::MAX => json!("endless"),
        ms => json!(ms as f64 / 1000.0),
    };
    let delimiter = |code: u32| json!(char::from_u32(code).filter(|c| *c != '\0'));
    let all = [
        ("hold_seconds", policy.hold_ms.map(seconds)),
        ("delay_notice_seconds", policy.delay_ms.map(seconds)),
        ("probation_seconds", policy.probation_ms.map(probation)),
        ("quota_bytes", policy.quota_bytes.map(limit)),
        ("quota_messages", policy.quota_messages.map(limit)),
        ("recipients", recipients.map(Value::from)),
        ("delimiter", policy.delimiter.map(delimiter)),
        ("keep_yes_seconds", policy.yes_ms.map(seconds)),
        ("keep_no_seconds", policy.no_ms.map(seconds)),
        ("probe_seconds", policy.probe_ms.map(seconds)),
        ("ping", policy.ping.map(Value::from)),
        ("atrn", policy.atrn.map(Value::from)),
        (
            "while_up",
            policy
                .defer
                .map(|defer| json!(if defer { "defer" } else { "relay" })),
        ),
        ("deliver", deliver.map(Value::from)),
        (
            "when_full",
            policy
                .full_for_good
                .map(|never| json!(if never { "never" } else { "later" })),
        ),
    ];
    let there = all.into_iter();
    there
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}
