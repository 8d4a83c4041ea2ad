//! Reads sources, each in a thread of its own: a few are read ahead, and their events are handed out in the order of the
//! sources.

use std::collections::VecDeque;
use std::sync::Arc;

use indicatif::ProgressBar;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::fault::{Fault, Position};
use super::line::{Leniency, Parsed};
use super::sources::Source;
use super::split::{LARGE_BYTES, Splitter, Step};
use super::text;
use super::transcript::{Item, RecordParser, TranscriptOptions};
use crate::formats::looks_like;
use crate::grpc::pb::UpdateSessionRequest;

/// Number of sources that are read at the same time.
const READERS: usize = 4;
/// Bytes of a source's events that are in memory. A larger event is in memory alone.
const BUDGET_BYTES: usize = LARGE_BYTES;
/// Bytes that an event is counted beside its text, and for each value of its `meta`.
const EVENT_BYTES: usize = 512;
const VALUE_BYTES: usize = 96;
/// Capacity of the channel of a reader; the budget is the bound for events.
const CHANNEL_ITEMS: usize = 64;

/// A message of a reader.
pub(super) enum Message {
    /// An event, and the memory that it holds until it is dropped.
    Event(Position, Box<Parsed>, OwnedSemaphorePermit),
    /// The title, owner or `meta` of a session.
    Session(Position, Box<UpdateSessionRequest>),
    /// A part of a transcript that is not stored, by its kind.
    Skipped(String),
    /// The format of the source, if it was recognised.
    Format(&'static str),
    /// The format that the first record of the source looks like, if it is no event.
    LooksLike(String),
    /// A record that is no event.
    Bad(Position, Fault),
    /// The source cannot be read, or not to its end.
    Broken(String),
    /// The end of the source.
    End,
}

/// The sources that are read or will be.
pub(super) struct Readers {
    waiting: VecDeque<(usize, Source)>,
    reading: VecDeque<Reading>,
    /// Index of the source whose events are handed out.
    turn: watch::Sender<usize>,
    spirit_id: String,
    leniency: Leniency,
    transcripts: TranscriptOptions,
    progress: ProgressBar,
}

/// A source that is read.
struct Reading {
    index: usize,
    messages: mpsc::Receiver<Message>,
    /// The reader ended without the last message.
    is_broken: bool,
}

impl Readers {
    pub(super) fn new(
        sources: Vec<Source>,
        spirit_id: String,
        leniency: Leniency,
        transcripts: TranscriptOptions,
        progress: ProgressBar,
    ) -> Self {
        Self {
            waiting: sources.into_iter().enumerate().collect(),
            reading: VecDeque::new(),
            turn: watch::Sender::new(0),
            spirit_id,
            leniency,
            transcripts,
            progress,
        }
    }

    /// Returns the next message with the index of its source; `None` after the last. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<(usize, Message)> {
        self.start();
        let reading = self.reading.front_mut()?;
        let index = reading.index;
        let message = match reading.messages.recv().await {
            Some(message) => message,
            None if reading.is_broken => Message::End,
            None => {
                reading.is_broken = true;
                Message::Broken("is not read to its end, because its reader failed".to_owned())
            }
        };
        if matches!(message, Message::End) {
            self.leave(index);
        }
        Some((index, message))
    }

    /// Stops reading a source if it is still read.
    pub(super) fn leave(&mut self, index: usize) {
        if self.reading.front().is_some_and(|front| front.index == index) {
            self.reading.pop_front();
            self.turn.send_replace(index + 1);
        }
    }

    fn start(&mut self) {
        while self.reading.len() < READERS
            && let Some((index, source)) = self.waiting.pop_front()
        {
            let (sender, receiver) = mpsc::channel(CHANNEL_ITEMS);
            let parser = RecordParser::new(
                self.spirit_id.clone(),
                source.name.clone(),
                self.leniency,
                self.transcripts.clone(),
            );
            let reader = Reader {
                index,
                source,
                parser,
                last: Position {
                    line: 1,
                    element: None,
                },
                is_first: true,
                progress: self.progress.clone(),
                budget: Arc::new(Semaphore::new(BUDGET_BYTES)),
                turn: self.turn.subscribe(),
                sender,
            };
            tokio::task::spawn_blocking(move || reader.run());
            self.reading.push_back(Reading {
                index,
                messages: receiver,
                is_broken: false,
            });
        }
    }
}

/// The thread of one source. It ends when nobody takes its messages.
struct Reader {
    index: usize,
    source: Source,
    parser: RecordParser,
    /// Position of the last record.
    last: Position,
    /// Whether the next record is the first one that is not blank.
    is_first: bool,
    progress: ProgressBar,
    budget: Arc<Semaphore>,
    turn: watch::Receiver<usize>,
    sender: mpsc::Sender<Message>,
}

/// The receiver of the reader's messages was dropped.
struct Abandoned;

impl Reader {
    fn run(mut self) {
        let text = match text::open(&self.source.origin, self.progress.clone()) {
            Ok(text) => text,
            Err(error) => {
                // The receiver may have been dropped.
                let _ = self.end(error.to_string());
                return;
            }
        };
        let mut splitter = Splitter::new(text);
        let mut whole_budget = None;
        loop {
            let step = splitter.step();
            let sent = match step {
                Ok(Step::Large) => self
                    .wait_for_whole_budget()
                    .map(|permit| whole_budget = Some(permit)),
                Ok(Step::Record(at)) => self.record(at, splitter.take(), whole_budget.take()),
                Ok(Step::TooLong(at)) => {
                    whole_budget = None;
                    self.send(Message::Bad(
                        at,
                        Fault::new("too long", "is longer than any event"),
                    ))
                }
                Ok(Step::Broken(text)) => self.end(text.to_owned()),
                Ok(Step::End) => self.finish(),
                Err(error) => self.end(format!("cannot be read to its end: {error}")),
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn record(
        &mut self,
        at: Position,
        record: Vec<u8>,
        whole_budget: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Abandoned> {
        self.last = at;
        let bytes = record.len();
        let items = self.parser.parse(&record);
        let is_blank = items.as_ref().is_ok_and(Vec::is_empty);
        let is_first = self.is_first && !is_blank;
        self.is_first &= is_blank;
        match items {
            Ok(items) => {
                drop(record);
                self.items(at, bytes, items, whole_budget)
            }
            Err(fault) => {
                let guess = is_first.then(|| looks_like(&String::from_utf8_lossy(&record)));
                if let Some(guess) = guess.flatten() {
                    self.send(Message::LooksLike(guess))?;
                }
                self.send(Message::Bad(at, fault))
            }
        }
    }

    /// Sends the results of a record of this length.
    fn items(
        &self,
        at: Position,
        bytes: usize,
        items: Vec<Item>,
        mut whole_budget: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Abandoned> {
        let is_single = items.len() == 1;
        if !is_single {
            // The events of a transcript's record share the budget one after the other.
            whole_budget = None;
        }
        for item in items {
            let message = match item {
                Item::Event(parsed) => {
                    let bytes = if is_single {
                        bytes
                    } else {
                        parsed.request.encoded_len()
                    };
                    let permit = match whole_budget.take() {
                        Some(permit) => permit,
                        None => self.acquire(bytes + EVENT_BYTES + parsed.values * VALUE_BYTES)?,
                    };
                    Message::Event(at, parsed, permit)
                }
                Item::Session(request) => Message::Session(at, request),
                Item::Skipped(kind) => Message::Skipped(kind),
                Item::Format(name) => Message::Format(name),
            };
            self.send(message)?;
        }
        Ok(())
    }

    /// Sends what remains after the last record, and ends.
    fn finish(&mut self) -> Result<(), Abandoned> {
        match self.parser.finish() {
            Ok(items) => self.items(self.last, 0, items, None)?,
            Err(fault) => self.send(Message::Bad(self.last, fault))?,
        }
        self.send(Message::End)?;
        Err(Abandoned)
    }

    /// Waits until the events before this one are stored, in this source and in all before it.
    fn wait_for_whole_budget(&mut self) -> Result<OwnedSemaphorePermit, Abandoned> {
        let index = self.index;
        let turn = Handle::current().block_on(self.turn.wait_for(|turn| *turn >= index));
        turn.map(drop).map_err(|_| Abandoned)?;
        self.acquire(BUDGET_BYTES)
    }

    fn acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Abandoned> {
        let permits = u32::try_from(bytes.min(BUDGET_BYTES)).unwrap_or(u32::MAX);
        let acquire = async {
            tokio::select! {
                permit = Arc::clone(&self.budget).acquire_many_owned(permits) => permit.map_err(|_| Abandoned),
                () = self.sender.closed() => Err(Abandoned),
            }
        };
        Handle::current().block_on(acquire)
    }

    fn send(&self, message: Message) -> Result<(), Abandoned> {
        self.sender.blocking_send(message).map_err(|_| Abandoned)
    }

    /// Ends the source before its end.
    fn end(&self, text: String) -> Result<(), Abandoned> {
        self.send(Message::Broken(text))?;
        self.send(Message::End)?;
        Err(Abandoned)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::cli::import::transcript::FormatArg;

    #[tokio::test]
    async fn a_source_whose_reader_failed_is_broken() {
        let leniency = Leniency {
            repair: false,
            assume_utc: false,
        };
        let transcripts = TranscriptOptions {
            format: FormatArg::default(),
            session: None,
            start: DateTime::<Utc>::UNIX_EPOCH,
            strict: false,
        };
        let progress = ProgressBar::hidden();
        let mut readers = Readers::new(Vec::new(), String::new(), leniency, transcripts, progress);
        let (sender, messages) = mpsc::channel(1);
        readers.reading.push_back(Reading {
            index: 0,
            messages,
            is_broken: false,
        });
        let sent = sender.try_send(Message::Skipped("part".to_owned()));
        assert!(sent.is_ok());
        drop(sender);
        assert!(matches!(readers.next().await, Some((0, Message::Skipped(_)))));
        assert!(matches!(readers.next().await, Some((0, Message::Broken(_)))));
        assert!(matches!(readers.next().await, Some((0, Message::End))));
        assert!(readers.next().await.is_none());
    }
}
