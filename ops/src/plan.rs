//! `holdfast plan …`: what is on offer.

use std::time::Duration;

use holdfast_proto::admin::{Plan as Shown, PlanName, PlanSetRequest};
use serde_json::{Value, json};

use crate::cli::{Global, Offer, Plan, WhenFull, YesNo};
use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::money::{self, Money};
use crate::output::{self, Output};

pub(crate) async fn run(global: &Global, command: Plan, output: Output) -> Result<Exit, Failure> {
    match command {
        Plan::Add { name, price, offer } => {
            let plan = offered(&name, Some(price), &offer)?;
            let mut client = client::connect(global).await?;
            changed(&mut client, plan, true, "added", output).await?;
        }
        Plan::Set { name, price, offer } => {
            let plan = offered(&name, price, &offer)?;
            let mut client = client::connect(global).await?;
            changed(&mut client, plan, false, "changed", output).await?;
        }
        Plan::List => {
            let plans = plans(&mut client::connect(global).await?, "").await?;
            if plans.is_empty() && !output.is_json() {
                eprintln!(
                    "No plan yet. Add one: holdfast plan add NAME --price \"5.00 EUR\" --quota 1GB"
                );
            } else {
                show(&plans, output)?;
            }
        }
        Plan::Show { name } => {
            show(
                &plans(&mut client::connect(global).await?, &name).await?,
                output,
            )?;
        }
        Plan::Remove { name } => {
            let mut client = client::connect(global).await?;
            let failed = format!("the plan {name} was not removed");
            let request = PlanName { name: name.clone() };
            client::answer(&failed, client.plan_remove(client::request(request))).await?;
            if output.is_json() {
                output.json("plan-remove/v1", &json!({"name": name}))?;
            } else {
                output.line(format!("Plan {name} removed."))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The plan with what was named of it.
fn offered(name: &str, price: Option<Money>, offer: &Offer) -> Result<Shown, Failure> {
    let step_price = offer.step_price.clone();
    if let (Some(price), Some(step)) = (&price, &step_price)
        && price.currency != step.currency
    {
        let why = format!(
            "its price is in {}, and that of a step in {}",
            price.currency, step.currency
        );
        return Err(Failure::new(format!("the plan {name} was not set"), why)
            .fix("name both in one currency")
            .exit(Exit::Usage));
    }
    let minor = |money: &Option<Money>| money.as_ref().map(|money| money.minor);
    Ok(Shown {
        name: name.to_owned(),
        price: minor(&price),
        step_price: minor(&step_price),
        currency: price.or(step_price).map(|money| money.currency),
        quota_bytes: offer.quota,
        quota_messages: offer.quota_messages,
        step_bytes: offer.step,
        mx_hosts: offer.hosts,
        hold_ms: offer.hold,
        full_for_good: offer.when_full.map(|when| when == WhenFull::Never),
        probe_ms: offer.probe,
        ping: offer.ping.map(|whether| whether == YesNo::Yes),
        domains: 0,
    })
}

async fn changed(
    client: &mut Client,
    plan: Shown,
    must_be_new: bool,
    done: &str,
    output: Output,
) -> Result<(), Failure> {
    let name = plan.name.clone();
    let request = PlanSetRequest {
        plan: Some(plan),
        must_be_new,
    };
    let failed = format!("the plan {name} was not {done}");
    client::answer(&failed, client.plan_set(client::request(request))).await?;
    if output.is_json() {
        output.json("plan-set/v1", &json!({"name": name, "done": done}))?;
    } else if must_be_new {
        output.line(format!(
            "Plan {name} added. Put a domain on it: holdfast domain set DOMAIN --plan {name}"
        ))?;
    } else {
        output.line(format!(
            "Plan {name} changed, for all domains that are on it."
        ))?;
    }
    Ok(())
}

/// All plans, or the one of that name.
async fn plans(client: &mut Client, name: &str) -> Result<Vec<Shown>, Failure> {
    let request = PlanName {
        name: name.to_owned(),
    };
    let asked = client.plans(client::request(request));
    Ok(client::answer("the plans are not known", asked)
        .await?
        .plans)
}

fn show(plans: &[Shown], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        for plan in plans {
            output.json("plan/v1", &as_json(plan))?;
        }
        return Ok(());
    }
    let columns = [
        "PLAN",
        "PRICE",
        "QUOTA",
        "MESSAGES",
        "STEP",
        "STEP PRICE",
        "HOSTS",
        "HOLD",
        "WHEN FULL",
        "PROBE",
        "PING",
        "DOMAINS",
    ];
    let numbers = [
        "PRICE",
        "QUOTA",
        "MESSAGES",
        "STEP",
        "STEP PRICE",
        "DOMAINS",
    ];
    let mut table = output::table(&columns, &numbers);
    for plan in plans {
        let currency = plan.currency();
        let (step_bytes, step_price) = match plan.step_bytes() {
            0 => ("-".to_owned(), "-".to_owned()),
            bytes => (
                output::bytes(bytes),
                money::amount(plan.step_price(), currency),
            ),
        };
        let or = |number: u64, none: &str, text: String| match number {
            0 => none.to_owned(),
            _ => text,
        };
        table.add_row(vec![
            plan.name.clone(),
            money::amount(plan.price(), currency),
            or(
                plan.quota_bytes(),
                "none",
                output::bytes(plan.quota_bytes()),
            ),
            or(
                plan.quota_messages(),
                "none",
                plan.quota_messages().to_string(),
            ),
            step_bytes,
            step_price,
            or(plan.mx_hosts().into(), "3", plan.mx_hosts().to_string()),
            or(
                plan.hold_ms(),
                "quota",
                output::span(Duration::from_millis(plan.hold_ms())),
            ),
            if plan.full_for_good() {
                "never"
            } else {
                "later"
            }
            .to_owned(),
            output::span(Duration::from_millis(plan.probe_ms())),
            if plan.ping() { "yes" } else { "no" }.to_owned(),
            plan.domains.to_string(),
        ]);
    }
    output.table(&table)?;
    Ok(())
}

/// `null` for what has no limit or no end, and for steps that cannot be had.
fn as_json(plan: &Shown) -> Value {
    let limit = |number: u64| (number > 0).then_some(number);
    let has_steps = plan.step_bytes() > 0;
    let currency = plan.currency();
    json!({
        "name": plan.name,
        "currency": currency,
        "price": money::decimal(plan.price().into(), currency),
        "quota_bytes": limit(plan.quota_bytes()),
        "quota_messages": limit(plan.quota_messages()),
        "step_bytes": limit(plan.step_bytes()),
        "step_price": has_steps.then(|| money::decimal(plan.step_price().into(), currency)),
        "mx_hosts": limit(plan.mx_hosts().into()),
        "hold_seconds": limit(plan.hold_ms()).map(|ms| ms as f64 / 1000.0),
        "when_full": if plan.full_for_good() { "never" } else { "later" },
        "probe_seconds": plan.probe_ms() as f64 / 1000.0,
        "ping": plan.ping(),
        "domains": plan.domains,
    })
}
