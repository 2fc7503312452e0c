//! `sluss top`: the dashboard's picture for a terminal, live.
//!
//! Two threads: this one draws and hears keys; a second asks the edge once a second, so that a slow
//! answer never freezes the screen. The terminal is put back on every way out: a key, a panic, an
//! edge that stays away for [`PATIENCE`], a terminal that is gone.

mod draw;
mod model;
mod reasons;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};

use super::client::EdgeArguments;
use super::table::{colours, failed};
use crate::admin::{FindingRow, SitesPage, Status};
use model::{Model, Wish};

/// Between two questions to the edge.
const EVERY: Duration = Duration::from_secs(1);

/// Between two looks for keys and answers.
const TICK: Duration = Duration::from_millis(50);

/// An edge that stays away longer is gone; a restart takes less.
const PATIENCE: Duration = Duration::from_secs(30);

/// Questions that may wait while the edge answers; only the last of them is put.
const QUESTIONS_MAX: usize = 8;

/// Set once a signal asks to leave.
static STOP: AtomicBool = AtomicBool::new(false);

const GONE: &str = "the thread that asks the edge is gone";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    edge: EdgeArguments,
}

/// What to ask next.
struct Question {
    since: i64,
    sites: String,
    findings: Option<String>,
}

/// What the edge says; of findings only where they were asked for.
type Answer = Result<(Status, SitesPage, Option<Vec<FindingRow>>)>;

/// Exit code 1 where the edge is not running or stays away, or there is no terminal.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match watch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn watch(arguments: &Arguments) -> Result<()> {
    if !io::stdout().is_terminal() {
        bail!("top needs a terminal; sluss status --json is for scripts");
    }
    let mut model = Model::default();
    model.plain = !colours();
    // The first answer comes before the screen is taken: where nobody runs, it stays as it was.
    let (status, page, _) = ask(&arguments.edge, &question(&model))?;
    model.update(status, page);
    let (questions, next) = sync_channel(QUESTIONS_MAX);
    let (answer, answers) = sync_channel(1);
    let edge = arguments.edge.clone();
    std::thread::spawn(move || {
        while let Some(question) = latest(&next) {
            // An error here is the loop's end: nobody listens any more.
            if answer.send(ask(&edge, &question)).is_err() {
                return;
            }
        }
    });
    stop_on_signals()?;
    let mut terminal = ratatui::try_init()?;
    let outcome = show(&mut terminal, &mut model, &questions, &answers);
    ratatui::restore();
    outcome
}

/// Lets SIGTERM and SIGHUP (a closed ssh session) end the loop, which puts the terminal back. Where
/// the terminal itself is gone the loop may never come round: crossterm reads its end again and
/// again. Then the process ends without it.
fn stop_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = hang_up.recv() => {} }
        });
        STOP.store(true, Relaxed);
        std::thread::sleep(4 * TICK);
        ratatui::restore();
        std::process::exit(0);
    });
    Ok(())
}

/// The last question that was put, waiting for one; `None` where none will come.
fn latest(questions: &Receiver<Question>) -> Option<Question> {
    let mut question = questions.recv().ok()?;
    loop {
        match questions.try_recv() {
            Ok(newer) => question = newer,
            Err(TryRecvError::Empty) => return Some(question),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
}

fn question(model: &Model) -> Question {
    Question { since: model.since(), sites: model.sites_path(), findings: model.findings_path() }
}

/// Finds the edge anew each time: after a restart it may listen elsewhere.
fn ask(edge: &EdgeArguments, question: &Question) -> Answer {
    let edge = edge.find()?;
    let status = edge.json(&format!("/api/status?since={}", question.since))?;
    let findings = question.findings.as_ref().map(|path| edge.json(path)).transpose()?;
    Ok((status, edge.json(&question.sites)?, findings))
}

/// Puts a question. Where the edge is slow and some wait already, the next one does.
fn put(questions: &SyncSender<Question>, question: Question) -> Result<()> {
    match questions.try_send(question) {
        Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
        Err(TrySendError::Disconnected(_)) => bail!(GONE),
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    questions: &SyncSender<Question>,
    answers: &Receiver<Answer>,
) -> Result<()> {
    let (mut asked, mut answered) = (Instant::now(), Instant::now());
    loop {
        if STOP.load(Relaxed) {
            return Ok(());
        }
        terminal.draw(|frame| draw::draw(frame, model))?;
        if asked.elapsed() >= EVERY {
            put(questions, question(model))?;
            asked = Instant::now();
        }
        match answers.recv_timeout(Duration::ZERO) {
            Ok(Ok((status, page, findings))) => {
                model.update(status, page);
                model.findings = findings.or(model.findings.take());
                answered = Instant::now();
            }
            Ok(Err(error)) => model.lost = Some(format!("{error:#}")),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!(GONE),
        }
        if answered.elapsed() > PATIENCE {
            let why = model.lost.take().unwrap_or_else(|| "no answer".to_owned());
            bail!("the edge was away for {} seconds: {why}", PATIENCE.as_secs());
        }
        if !event::poll(TICK)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match model.key(key) {
            Wish::Draw => {}
            Wish::Quit => return Ok(()),
            Wish::Ask => {
                put(questions, question(model))?;
                asked = Instant::now();
            }
        }
    }
}
