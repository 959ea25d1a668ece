//! `soak`: runs the tests with real nodes, simulated clusters and the fuzz targets over and over, each
//! time with a fresh seed, and writes down what they came to.
//!
//! It judges nothing itself: a run failed if its test did, and the figures are the test's own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::figures::{FIGURES_VARIABLE, Figures, percentile};
use holdfast_cluster_tests::random::{Random, SEED_VARIABLE};

/// Seconds that faults go on in one run; chosen anew for each.
const FAULT_SECONDS: (u64, u64) = (20, 90);
/// A run that takes longer hangs, which is a failure.
const RUN_TIME_MAX: Duration = Duration::from_secs(1500);
/// What `ops/mutants` said, if it was run; its last line is the sum.
const MUTANTS: &str = "mutants.txt";
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Simulated clusters of one run: a minute or two.
const SIMULATED_SEEDS: u64 = 16;
const SIMULATION: &str = "replica::simulation::no_seed_loses_mail";

/// What the shell script gives.
struct Task {
    /// The executables of the tests with real nodes, of the node's own, and of the fuzz targets.
    tests: PathBuf,
    node: PathBuf,
    fuzz: PathBuf,
    time: Duration,
    /// For outputs and the report.
    folder: PathBuf,
    seed: u64,
    /// Only tests whose names contain this, and nothing else.
    filter: String,
}

/// What is run again and again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    /// With real nodes, by name.
    Test(String),
    Simulation,
    Fuzz,
}

impl Job {
    fn name(&self) -> &str {
        match self {
            Self::Test(name) => name,
            Self::Simulation => "simulated clusters",
            Self::Fuzz => "fuzz targets",
        }
    }
}

/// All runs of one test.
#[derive(Default)]
struct Tally {
    runs: usize,
    not_run: usize,
    /// Seeds.
    failed: Vec<u64>,
    seconds: f64,
    figures: Figures,
    /// Simulated clusters, and their seconds.
    seeds: u64,
    simulated: f64,
    /// Of the fuzz targets.
    inputs: u64,
}

fn main() -> ExitCode {
    let Some(task) = Task::from_arguments() else {
        eprintln!("usage: soak TESTS NODE FUZZ HOURS FOLDER SEED [FILTER]");
        return ExitCode::from(2);
    };
    match task.run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Task {
    fn from_arguments() -> Option<Self> {
        let mut words = std::env::args().skip(1);
        let (tests, node, fuzz) = (words.next()?, words.next()?, words.next()?);
        let hours: f64 = words.next()?.parse().ok()?;
        let folder = words.next()?.into();
        let seed = words.next()?.parse().ok()?;
        Some(Self {
            tests: tests.into(),
            node: node.into(),
            fuzz: fuzz.into(),
            time: Duration::try_from_secs_f64(hours * 3600.0).ok()?,
            folder,
            seed,
            filter: words.next().unwrap_or_default(),
        })
    }

    /// Runs until the time is over, every test at least once; gives the number of failures.
    fn run(&self) -> io::Result<usize> {
        fs::create_dir_all(&self.folder)?;
        let jobs = self.jobs()?;
        let mut random = Random::new(self.seed);
        let mut tallies: BTreeMap<&Job, Tally> = BTreeMap::new();
        let begun = Instant::now();
        for round in 0.. {
            for job in &jobs {
                if round > 0 && begun.elapsed() > self.time {
                    return Ok(tallies.values().map(|tally| tally.failed.len()).sum());
                }
                let (seed, seconds) = (
                    random.draw() >> 16,
                    random.between(FAULT_SECONDS.0, FAULT_SECONDS.1),
                );
                let tally = tallies.entry(job).or_default();
                self.run_one(job, seed, seconds, tally)?;
                let mutants = fs::read_to_string(self.folder.join(MUTANTS)).unwrap_or_default();
                let report = report(&tallies, begun.elapsed(), self.seed, &mutants);
                fs::write(self.folder.join("report.md"), report)?;
            }
        }
        Ok(0)
    }

    fn jobs(&self) -> io::Result<Vec<Job>> {
        let listed = Command::new(&self.tests)
            .args(["--list", "--format", "terse", &self.filter])
            .output()?;
        let mut jobs: Vec<Job> = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(|name| Job::Test(name.to_owned()))
            .collect();
        if jobs.is_empty() {
            return Err(io::Error::other(format!(
                "{} has no such tests",
                self.tests.display()
            )));
        }
        if self.filter.is_empty() {
            jobs.extend([Job::Simulation, Job::Fuzz]);
        }
        Ok(jobs)
    }

    fn command(&self, job: &Job, seed: u64) -> Command {
        let mut command = Command::new(match job {
            Job::Test(_) => &self.tests,
            Job::Simulation => &self.node,
            Job::Fuzz => &self.fuzz,
        });
        match job {
            Job::Test(name) => command.args([name, "--exact"]),
            Job::Simulation => {
                let seeds = format!("{seed}..{}", seed + SIMULATED_SEEDS);
                command
                    .args([SIMULATION, "--exact"])
                    .env("HOLDFAST_SEEDS", seeds)
            }
            Job::Fuzz => command.env("HOLDFAST_FUZZ_SEED", seed.to_string()),
        };
        command
    }

    fn run_one(&self, job: &Job, seed: u64, seconds: u64, tally: &mut Tally) -> io::Result<()> {
        let name = job.name();
        let figures = self.folder.join("figures.jsonl");
        // It may not be there.
        drop(fs::remove_file(&figures));
        let output = name.replace("::", ".").replace(' ', "-");
        let output = self.folder.join(format!("{output}.{seed}.log"));
        let begun = Instant::now();
        let file = File::create(&output)?;
        let child = self
            .command(job, seed)
            .args(["--nocapture", "--test-threads=1"])
            .env(SEED_VARIABLE, seed.to_string())
            .env("HOLDFAST_TEST_SECONDS", seconds.to_string())
            .env(FIGURES_VARIABLE, &figures)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        let passed = wait(child)?.is_some_and(|how| how.success());
        let took = begun.elapsed().as_secs_f64();
        let said = fs::read_to_string(&output).unwrap_or_default();
        tally.seconds += took;
        tally.count(&said);
        if passed && said.contains("NOT RUN") {
            tally.not_run += 1;
        } else {
            tally.runs += 1;
        }
        if passed {
            fs::remove_file(&output)?;
        } else {
            tally.failed.push(seed);
        }
        for line in fs::read_to_string(&figures).unwrap_or_default().lines() {
            tally.figures.add(&serde_json::from_str(line)?);
        }
        let verdict = if passed { "ok" } else { "FAILED" };
        eprintln!("{name}: {verdict}, seed {seed}, {took:.0} s");
        Ok(())
    }
}

impl Tally {
    /// Adds what a simulation or a fuzz target said of itself.
    fn count(&mut self, said: &str) {
        for line in said.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            // The first stands behind the name of the test.
            let is_seed = |words: &[&str]| matches!(words, ["seed", _, "trace"]);
            if words.windows(3).any(is_seed) {
                self.seeds += 1;
                continue;
            }
            match words[..] {
                [seconds, "simulated", "seconds", ..] => {
                    self.simulated += seconds.parse().unwrap_or(0.0);
                }
                [.., inputs, "inputs", "in", _] => self.inputs += inputs.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// None: it took too long and was killed.
fn wait(mut child: std::process::Child) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(how) = child.try_wait()? {
            return Ok(Some(how));
        }
        if begun.elapsed() > RUN_TIME_MAX {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(LOOK_EVERY);
    }
}

fn report(tallies: &BTreeMap<&Job, Tally>, time: Duration, seed: u64, mutants: &str) -> String {
    let mut all = Figures::default();
    let (mut runs, mut failed) = (0, 0);
    let mut table = String::from(
        "| test | runs | failed | not run | messages | s a run |\n|---|---|---|---|---|---|\n",
    );
    let mut failures = String::new();
    for (job, tally) in tallies {
        let name = job.name();
        all.add(&tally.figures);
        runs += tally.runs;
        failed += tally.failed.len();
        let count = (tally.runs + tally.not_run).max(1);
        table += &format!(
            "| {} | {} | {} | {} | {} | {:.0} |\n",
            name.replace('_', " "),
            tally.runs,
            tally.failed.len(),
            tally.not_run,
            tally.figures.acknowledged,
            tally.seconds / count as f64,
        );
        for seed in &tally.failed {
            failures += &format!("- `{SEED_VARIABLE}={seed}` {name}\n");
        }
    }
    let mut text = format!(
        "# Soak of {:.2} h, first seed {seed}\n\n{runs} runs, {failed} failed. {} messages \
         acknowledged, {} deliveries, {} recipients got a copy twice (each with a cause), {} \
         comparisons of replicas at the same entry. {} simulated clusters, {:.1} hours in all; {} inputs of fuzz \
         targets. {}.\n\n{table}\n",
        time.as_secs_f64() / 3600.0,
        all.acknowledged,
        all.delivered,
        all.duplicates,
        all.states_compared,
        tallies.values().map(|tally| tally.seeds).sum::<u64>(),
        tallies.values().map(|tally| tally.simulated).sum::<f64>() / 3600.0,
        tallies.values().map(|tally| tally.inputs).sum::<u64>(),
        mutants.lines().last().unwrap_or("Mutants were not run"),
    );
    text += "| fault | times | mail again after, p50 | p99 | max |\n|---|---|---|---|---|\n";
    let every: Vec<f64> = all.recoveries.values().flatten().copied().collect();
    let sum = ("all".to_owned(), all.faults.values().sum());
    for (fault, count) in all.faults.iter().chain([(&sum.0, &sum.1)]) {
        let times = match all.recoveries.get(fault) {
            Some(times) => times,
            None if *fault == sum.0 => &every,
            None => &Vec::new(),
        };
        let seconds = |percent| match times.is_empty() {
            true => "-".to_owned(),
            false => format!("{:.1} s", percentile(times, percent)),
        };
        text += &format!(
            "| {fault} | {count} | {} | {} | {} |\n",
            seconds(50),
            seconds(99),
            seconds(100)
        );
    }
    if !failures.is_empty() {
        text += &format!("\nFailed, with what repeats them:\n\n{failures}");
    }
    for broken in &all.broken {
        text += &format!("- {broken}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_simulations_and_fuzz_targets_say_is_counted() {
        let mut tally = Tally::default();
        tally.count(
            "test no_seed_loses_mail ... seed 7 trace 0a accepted 3 delivered 3 snapshots 1\nseed 8 trace 0b accepted 1 delivered 1 \
             snapshots 0\n200 simulated seconds in 4.0 s: 50 a second\nbdat: 150013 inputs in 2.1s\n\
             test no_panic ... dsn: 12 inputs in 1.0s\n",
        );
        assert_eq!((tally.seeds, tally.inputs), (2, 150_025));
        assert!((tally.simulated - 200.0).abs() < 0.1);
    }
}
