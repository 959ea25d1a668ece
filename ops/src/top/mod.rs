//! `holdfast top`: the cluster on one screen, as it changes.

mod rates;
mod screen;

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::status;
use screen::Screen;

/// How often the node is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(client: &mut Client) -> Result<Exit, Failure> {
    if !stdout().is_terminal() {
        return Err(
            Failure::new("there is no screen to draw on", "standard output is no terminal")
                .exit(Exit::Usage)
                .fix("`holdfast status` prints the same once, `holdfast events --follow --json` what changes"),
        );
    }
    // Before the screen is taken: an error is read better without one.
    let first = status::ask(client).await?;
    let mut screen = Screen::default();
    screen.show(Ok(first));
    let mut terminal = ratatui::try_init()?;
    let ended = watch(client, &mut terminal, &mut screen).await;
    ratatui::restore();
    ended.map(|()| Exit::Done)
}

async fn watch(
    client: &mut Client,
    terminal: &mut DefaultTerminal,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let mut keys = keys();
    let mut stop = signal(SignalKind::terminate())?;
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        tokio::select! {
            _ = ticks.tick(), if !screen.is_paused() => {
                // A node that hangs must not hold up the keys.
                tokio::select! {
                    asked = status::ask(client) => screen.show(asked.map_err(|why| why.to_string())),
                    key = keys.recv() => if acts(screen, key) { return Ok(()) },
                    _ = stop.recv() => return Ok(()),
                }
            }
            key = keys.recv() => if acts(screen, key) { return Ok(()) },
            _ = stop.recv() => return Ok(()),
        }
    }
}

/// What a key does; true: the end. `None`: there is no keyboard any more.
fn acts(screen: &mut Screen, event: Option<Event>) -> bool {
    match event {
        None => true,
        Some(Event::Key(key)) if key.kind != KeyEventKind::Release => screen.press(key),
        // Drawn anew in any case, as after a change of size.
        Some(_) => false,
    }
}

impl Screen {
    /// True: the end.
    fn press(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char(' ' | 'p') => self.pause(),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::PageDown => self.scroll(10),
            KeyCode::PageUp => self.scroll(-10),
            _ => {}
        }
        false
    }
}

/// Keys as they are pressed. The thread that waits for them ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (pressed, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if pressed.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_end_it_and_no_other_key() {
        let mut screen = Screen::default();
        let plain = |code| KeyEvent::new(code, KeyModifiers::NONE);
        assert!(screen.press(plain(KeyCode::Char('q'))));
        assert!(screen.press(plain(KeyCode::Esc)));
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(screen.press(control_c));
        for code in [KeyCode::Char('c'), KeyCode::Char('x'), KeyCode::Down] {
            assert!(!screen.press(plain(code)));
        }
        assert!(!screen.is_paused());
        assert!(!screen.press(plain(KeyCode::Char(' '))));
        assert!(screen.is_paused());
    }
}
