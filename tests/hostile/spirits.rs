//! Lists of spirits with the largest descriptions and metas.

use elephantasm_events::grpc::pb::ListSpiritsRequest;
use elephantasm_events::grpc::pb::spirit_service_client::SpiritServiceClient;
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{Host, MIB, peak};

const SPIRITS: i32 = 200;
const CONNECTIONS: usize = 8;
const LISTS: usize = 8;
/// Memory of the pages that are read and sent at the same time. All spirits of a page, of which it holds a seventh,
/// would take several times as much.
const GROWTH_MAX: usize = 96 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_spirits_takes_no_more_memory_than_its_reply() {
    let host = Host::start(&[]).await;
    sqlx::query(
        "insert into spirits (id, name, name_folded, description, meta)
         select gen_random_uuid(), 'large', 'large', repeat('x', 16000), jsonb_build_object('x', repeat('x', 60000))
         from generate_series(1, $1)",
    )
    .bind(SPIRITS)
    .execute(&mut host.test_dir.connect().await)
    .await
    .unwrap();
    let before = host.resident();
    let lists = async {
        let mut callers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let spirits = SpiritServiceClient::new(host.server.channel().await);
            for _ in 0..LISTS {
                let mut spirits = spirits.clone();
                callers.spawn(async move {
                    let request = ListSpiritsRequest {
                        page_size: SPIRITS,
                        ..ListSpiritsRequest::default()
                    };
                    match spirits.list_spirits(request).await {
                        Ok(page) => {
                            let page = page.into_inner();
                            assert!(!page.next_page_token.is_empty(), "{} spirits", page.spirits.len());
                            true
                        }
                        // On a busy machine a call may wait too long for a connection or for the budget of replies.
                        Err(status) => {
                            let busy = [Code::ResourceExhausted, Code::Unavailable];
                            assert!(busy.contains(&status.code()), "{status:?}");
                            false
                        }
                    }
                });
            }
        }
        let served = callers.join_all().await;
        served.into_iter().filter(|is_served| *is_served).count()
    };
    let (served, peak) = peak(&host, lists).await;
    let growth = peak.saturating_sub(before);
    println!("{served} lists: {} MiB", growth / MIB);
    assert!(served >= CONNECTIONS, "{served}");
    assert!(growth < GROWTH_MAX, "{} MiB", growth / MIB);
    host.server.stop().await;
}
