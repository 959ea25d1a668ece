//! `holdfast drill …`: failures rehearsed on purpose.

mod page;

use std::path::Path;

use holdfast_proto::admin::{Drill as Told, DrillList, DrillRunRequest, DrillSchedule, Empty};
use holdfast_proto::ledger::{DrillReport, DrillVerdict};
use serde_json::{Value, json};

use crate::cli::{Drill, DrillRun, Global, Schedule};
use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

pub(crate) async fn run(global: &Global, command: Drill, output: Output) -> Result<Exit, Failure> {
    let mut client = client::connect(global).await?;
    match command {
        Drill::Run(wish) => return begin(&mut client, wish, output).await,
        Drill::List => list(&mut client, output).await?,
        Drill::Show { id, html } => {
            let all = known(&mut client).await?.drills;
            let wanted = match &id {
                Some(id) => all.into_iter().find(|drill| drill.id == *id),
                None => all.into_iter().next_back(),
            };
            let drill = wanted.ok_or_else(|| {
                Failure::new("there is nothing to show", "no such drill is remembered")
                    .exit(Exit::NotFound)
                    .fix("holdfast drill list")
            })?;
            return show(&drill, html.as_deref(), output);
        }
        Drill::Stop => {
            let failed = "the drill goes on";
            let drill =
                client::answer(failed, client.drill_stop(client::request(Empty {}))).await?;
            if output.is_json() {
                output.json("drill/v1", &as_json(&drill))?;
            } else {
                output.line(format!(
                    "The failure is over at every node. Its report: holdfast drill show {}",
                    drill.id
                ))?;
            }
        }
        Drill::Schedule(command) => schedule(&mut client, command, output).await?,
    }
    Ok(Exit::Done)
}

async fn begin(client: &mut Client, wish: DrillRun, output: Output) -> Result<Exit, Failure> {
    let failed = "no drill was begun";
    let request = DrillRunRequest {
        kind: wish.kind.name(),
        region: wish.region.unwrap_or_default(),
        node: wish.target.unwrap_or_default(),
        duration_ms: wish.duration,
        rate: wish.rate,
        dry_run: wish.dry_run,
    };
    let begun = client.drill_run(client::request(request)).await;
    let mut told = begun
        .map_err(|status| Failure::from_status(failed, &status))?
        .into_inner();
    let mut last: Option<Told> = None;
    loop {
        let next = told.message().await.map_err(|status| {
            let unknown = Failure::from_status("what becomes of the drill is not known", &status);
            unknown.exit(Exit::Unreachable).fix(
                "every node ends its part by itself; look at `holdfast drill list`, at another node if this one \
                 is cut off",
            )
        })?;
        let Some(drill) = next else { break };
        if !output.is_json() {
            if last.is_none() {
                eprintln!("{}", plan(&drill, wish.dry_run));
            }
            // What happened first may be noted last.
            let seen = last.as_ref().map_or(&[][..], |last| &last.events);
            for event in drill.events.iter().filter(|event| !seen.contains(event)) {
                eprintln!(
                    "  t+{:<7} {}",
                    seconds(event.at_ms),
                    output::plain(&event.what)
                );
            }
        }
        last = Some(drill);
    }
    let drill = last.ok_or_else(|| Failure::new(failed, "the node ended its answer"))?;
    if wish.dry_run {
        if output.is_json() {
            output.json("drill/v1", &as_json(&drill))?;
        } else {
            output.line("It could be done. Nothing was changed.")?;
        }
        return Ok(Exit::Done);
    }
    show(&drill, wish.html.as_deref(), output)
}

/// What is about to happen.
fn plan(drill: &Told, only_asked: bool) -> String {
    let time = output::span(std::time::Duration::from_millis(drill.duration_ms));
    let what = match drill.kind.as_str() {
        "primary-outage" => "The canaries' own server is down".to_owned(),
        "disk-full" => format!("The disk of {} counts as full", drill.nodes.join(", ")),
        "partition" => format!("{} cut off from the other nodes", drill.nodes.join(", ")),
        _ => format!("{} cut off from everything", drill.nodes.join(", ")),
    };
    let what = format!(
        "{what} for {time}, with {} canaries a second; {} conducts.",
        drill.rate, drill.conductor
    );
    if only_asked {
        return what;
    }
    format!(
        "Drill {}: {what}\nIt ends by itself, whatever becomes of this terminal. To end it now: holdfast drill stop",
        drill.id
    )
}

fn show(drill: &Told, html: Option<&Path>, output: Output) -> Result<Exit, Failure> {
    if let Some(path) = html {
        std::fs::write(path, page::page(drill)).map_err(|error| {
            let what = format!("the report was not written to {}", path.display());
            Failure::new(what, error).fix("the cluster keeps it: holdfast drill show --html FILE")
        })?;
        eprintln!("Report written to {}.", path.display());
    }
    if output.is_json() {
        output.json("drill/v1", &as_json(drill))?;
    } else {
        as_text(drill, output)?;
    }
    Ok(match &drill.report {
        Some(report) if report.verdict() != DrillVerdict::Passed => Exit::Unhealthy,
        _ => Exit::Done,
    })
}

fn as_text(drill: &Told, output: Output) -> Result<(), Failure> {
    output.line(format!(
        "Drill {}  {}{}{}",
        drill.id,
        drill.kind,
        if drill.region.is_empty() { "" } else { " " },
        drill.region
    ))?;
    for event in &drill.events {
        let what = output::plain(&event.what);
        output.line(format!("  t+{:<7} {what}", seconds(event.at_ms)))?;
    }
    let Some(report) = &drill.report else {
        output.line(if drill.under_way {
            "  under way"
        } else {
            "  its end is not known yet"
        })?;
        return Ok(());
    };
    let figures = figures(report);
    let width = figures
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    for (name, value) in figures {
        output.line(format!("  {name:<width$}  {value}"))?;
    }
    let verdict = verdict(report.verdict());
    output.line(format!(
        "{}: {}",
        verdict.to_uppercase(),
        output::plain(&report.why)
    ))?;
    Ok(())
}

/// What was measured, in words.
fn figures(report: &DrillReport) -> Vec<(&'static str, String)> {
    let mut figures = Vec::new();
    let mut time = |name, ms: Option<u64>| {
        if let Some(ms) = ms {
            figures.push((name, seconds(ms)));
        }
    };
    time("another leader after", report.leader_ms);
    time(
        "longest time without an accepted canary",
        report.accept_gap_ms,
    );
    time("delivery taken over after", report.takeover_ms);
    time("drained after", report.drain_ms);
    figures.push((
        "canaries",
        format!(
            "{} sent, {} accepted, {} delivered, {} lost, {} twice",
            report.sent, report.accepted, report.delivered, report.lost, report.doubled
        ),
    ));
    figures.push(("attempts put off", report.put_off.to_string()));
    figures
}

fn verdict(verdict: DrillVerdict) -> &'static str {
    match verdict {
        DrillVerdict::Passed => "passed",
        DrillVerdict::Failed => "failed",
        DrillVerdict::Stopped => "stopped",
        DrillVerdict::Unknown | DrillVerdict::Unspecified => "unknown",
    }
}

/// How a drill stands, in one word.
pub(crate) fn standing(drill: &Told) -> &'static str {
    match &drill.report {
        Some(report) => verdict(report.verdict()),
        None if drill.under_way => "under way",
        None => "unknown",
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{}s", ms / 1000, ms % 1000 / 100)
}

async fn known(client: &mut Client) -> Result<DrillList, Failure> {
    let failed = "the drills could not be read";
    client::answer(failed, client.drill_list(client::request(Empty {}))).await
}

async fn list(client: &mut Client, output: Output) -> Result<(), Failure> {
    let drills = known(client).await?.drills;
    if output.is_json() {
        for drill in &drills {
            output.json("drill/v1", &as_json(drill))?;
        }
        return Ok(());
    }
    if drills.is_empty() {
        eprintln!("No drill yet. The first: holdfast drill run --kind leader-loss --duration 1m");
        return Ok(());
    }
    let columns = [
        "BEGAN", "KIND", "REGION", "NODES", "RESULT", "GAP", "LOST", "TWICE", "ID",
    ];
    let mut table = output::table(&columns, &["GAP", "LOST", "TWICE"]);
    for drill in &drills {
        let report = drill.report.clone().unwrap_or_default();
        table.add_row(vec![
            output::rfc3339(drill.began_at_ms / 1000 * 1000).unwrap_or_default(),
            drill.kind.clone(),
            drill.region.clone(),
            drill.nodes.join(","),
            standing(drill).to_owned(),
            report.accept_gap_ms.map_or_else(|| "-".to_owned(), seconds),
            report.lost.to_string(),
            report.doubled.to_string(),
            drill.id.clone(),
        ]);
    }
    output.table(&table)?;
    Ok(())
}

async fn schedule(client: &mut Client, command: Schedule, output: Output) -> Result<(), Failure> {
    let (set, done) = match command {
        Schedule::Set {
            name,
            kind,
            region,
            every,
            duration,
            rate,
        } => (
            DrillSchedule {
                name,
                kind: kind.name(),
                region: region.unwrap_or_default(),
                every_ms: every,
                next_at_ms: 0,
                duration_ms: duration,
                rate,
            },
            "set",
        ),
        Schedule::Remove { name } => (
            DrillSchedule {
                name,
                ..DrillSchedule::default()
            },
            "removed",
        ),
        Schedule::List => return schedules(client, output).await,
    };
    let name = set.name.clone();
    let failed = format!("the schedule {name} was not {done}");
    client::answer(&failed, client.drill_schedule_set(client::request(set))).await?;
    if output.is_json() {
        output.json(
            "drill-schedule-set/v1",
            &json!({"name": name, "done": done}),
        )?;
    } else {
        output.line(format!("Schedule {name} {done}."))?;
    }
    Ok(())
}

async fn schedules(client: &mut Client, output: Output) -> Result<(), Failure> {
    let schedules = known(client).await?.schedules;
    if output.is_json() {
        for schedule in &schedules {
            let value = json!({
                "name": schedule.name,
                "kind": schedule.kind,
                "region": schedule.region,
                "every_ms": schedule.every_ms,
                "next_at": output::rfc3339(schedule.next_at_ms),
                "duration_ms": schedule.duration_ms,
                "rate": schedule.rate,
            });
            output.json("drill-schedule/v1", &value)?;
        }
        return Ok(());
    }
    if schedules.is_empty() {
        eprintln!(
            "No schedule yet. One: holdfast drill schedule set weekly --kind region-loss --every 7d"
        );
        return Ok(());
    }
    let mut table = output::table(&["NAME", "KIND", "REGION", "EVERY", "LASTS", "NEXT"], &[]);
    let span = |ms| output::span(std::time::Duration::from_millis(ms));
    for schedule in schedules {
        let region = match schedule.region.as_str() {
            "" if schedule.kind == "region-loss" || schedule.kind == "partition" => "in turn",
            region => region,
        };
        table.add_row(vec![
            schedule.name.clone(),
            schedule.kind.clone(),
            region.to_owned(),
            span(schedule.every_ms),
            span(schedule.duration_ms),
            output::rfc3339(schedule.next_at_ms / 1000 * 1000).unwrap_or_default(),
        ]);
    }
    output.table(&table)?;
    Ok(())
}

pub(crate) fn as_json(drill: &Told) -> Value {
    let events: Vec<Value> = drill
        .events
        .iter()
        .map(|event| json!({"at_ms": event.at_ms, "what": event.what}))
        .collect();
    json!({
        "id": drill.id,
        "kind": drill.kind,
        "region": drill.region,
        "nodes": drill.nodes,
        "conductor": drill.conductor,
        "began_at": output::rfc3339(drill.began_at_ms),
        "duration_ms": drill.duration_ms,
        "rate": drill.rate,
        "state": standing(drill),
        "events": events,
        "report": drill.report.as_ref().map(|report| json!({
            "verdict": verdict(report.verdict()),
            "why": report.why,
            "injected_ms": report.injected_ms,
            "healed_ms": report.healed_ms,
            "leader_ms": report.leader_ms,
            "accept_gap_ms": report.accept_gap_ms,
            "takeover_ms": report.takeover_ms,
            "drain_ms": report.drain_ms,
            "sent": report.sent,
            "accepted": report.accepted,
            "delivered": report.delivered,
            "lost": report.lost,
            "doubled": report.doubled,
            "unknown": report.unknown,
            "put_off": report.put_off,
            "accepted_per_s": report.accepted_per_s,
            "delivered_per_s": report.delivered_per_s,
        })),
    })
}
