//! Shows the progress of a command on stderr: a bar on a terminal, else a line now and then.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Interval of progress lines where stderr is not a terminal, and of changes of the progress bar's text where it is.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// The progress of a command since it was created.
pub(super) struct Progress {
    /// indicatif draws it only on a terminal.
    bar: ProgressBar,
    started: Instant,
    shown: Instant,
}

impl Progress {
    pub(super) fn new(bar: ProgressBar) -> Self {
        Self {
            bar,
            started: Instant::now(),
            shown: Instant::now(),
        }
    }

    pub(super) fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the number of items a second since the start.
    #[allow(clippy::cast_precision_loss)] // a rate for people
    pub(super) fn rate(&self, items: u64) -> f64 {
        items as f64 / self.elapsed().as_secs_f64().max(0.001)
    }

    /// Returns whether the last text was shown long enough ago.
    pub(super) fn is_due(&mut self) -> bool {
        let interval = if self.bar.is_hidden() {
            LINE_INTERVAL
        } else {
            BAR_INTERVAL
        };
        let is_due = self.shown.elapsed() >= interval;
        if is_due {
            self.shown = Instant::now();
        }
        is_due
    }

    /// Shows a text. A line adds `more`, which the bar shows by itself.
    pub(super) fn show(&self, text: &str, more: &str) {
        if self.bar.is_hidden() {
            eprintln!("{text}{more}");
        } else {
            self.bar.set_message(text.to_owned());
        }
    }
}

/// Returns the bar with this template of indicatif.
pub(super) fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
