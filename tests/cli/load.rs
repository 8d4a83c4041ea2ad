//! Writers that create events until the test stops them, through every failure of the server or its database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use elephantasm_events::grpc::pb::{Event, ListEventsRequest};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::{Server, event, eventually};

const WRITERS: usize = 4;
/// Pause of a writer after a failed create.
const PAUSE: Duration = Duration::from_millis(10);

/// Running writers and the events that the server acknowledged to them.
pub struct Load {
    stopped: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Event>>>,
    writers: JoinSet<()>,
}

impl Load {
    /// Starts writers of events in the session `s`.
    pub async fn start(server: &Server, spirit_id: &str) -> Self {
        let (stopped, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Event>>>::default());
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let (mut events, request) = (server.events().await, event(spirit_id));
            let (stopped, acknowledged) = (Arc::clone(&stopped), Arc::clone(&acknowledged));
            writers.spawn(async move {
                while !stopped.load(Ordering::Acquire) {
                    match events.create_event(request.clone()).await {
                        Ok(created) => acknowledged.lock().push(created.into_inner().event.unwrap()),
                        Err(_) => sleep(PAUSE).await,
                    }
                }
            });
        }
        Self {
            stopped,
            acknowledged,
            writers,
        }
    }

    /// Waits until further creates have been acknowledged.
    pub async fn further_creates(&self, count: usize) {
        let wanted = self.acknowledged.lock().len() + count;
        eventually("the server acknowledges creates", async || {
            (self.acknowledged.lock().len() >= wanted).then_some(())
        })
        .await;
    }

    /// Stops the writers and returns the acknowledged events.
    pub async fn stop(self) -> Vec<Event> {
        self.stopped.store(true, Ordering::Release);
        self.writers.join_all().await;
        std::mem::take(&mut *self.acknowledged.lock())
    }
}

/// Asserts that all these events are stored, in the session `s`, and that the sequences have no gap.
pub async fn assert_all_are_stored(server: &Server, spirit_id: &str, acknowledged: &[Event]) {
    let mut request = ListEventsRequest {
        spirit_id: spirit_id.to_owned(),
        session_id: Some("s".to_owned()),
        page_size: 200,
        ..ListEventsRequest::default()
    };
    let mut stored = Vec::new();
    loop {
        let listed = server.events().await.list_events(request.clone()).await;
        let page = listed.unwrap().into_inner();
        stored.extend(page.events);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    stored.sort_unstable_by_key(|event| event.sequence);
    let sequences = stored.iter().map(|event| event.sequence);
    assert!(sequences.eq((1..).take(stored.len())), "the sequences have a gap");
    for event in acknowledged {
        let index = usize::try_from(event.sequence - 1).unwrap();
        assert_eq!(stored.get(index), Some(event), "an acknowledged event is lost");
    }
}
