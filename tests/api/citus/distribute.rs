//! Distributing a database with rows, again, and where it cannot work.

use elephantasm_events::store::{
    DISTRIBUTED_TABLES, DistributeError, Distribution, Distributor, SHARDS_DEFAULT, Sharding, Store,
};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::support::citus::skipped_without_citus;
use crate::support::harness::{Database, Settings};

/// Rows of 40 spirits.
const ROWS: &str = "
    insert into spirits (id, name, name_folded, activity_epoch)
    select gen_random_uuid(), 'n', 'n', 1
    from generate_series(1, 40);

    insert into events (id, spirit_id, sequence, event_type, content, occurred_at, meta)
    select gen_random_uuid(), id, sequence, 'message.in', 'hello', now(), '{\"key\": 1}'
    from spirits, generate_series(1, 25) as sequence;

    insert into sessions (spirit_id, session_id)
    select id, 's'
    from spirits;

    insert into changes (spirit_id, change, kind, event_id, sequence, fields, changed_at)
    select spirit_id, sequence, 'updated', id, sequence, '{role}', now()
    from events;

    insert into purges (spirit_id, purge_id, selection)
    select id, gen_random_uuid(), 'all'
    from spirits";

/// A database of the cluster with the schema and rows, which is not distributed.
async fn database_with_rows() -> Database {
    let database = migrated().await;
    run(&mut database.connect().await, ROWS).await;
    database
}

/// A database of the cluster with the schema.
pub async fn migrated() -> Database {
    let database = Database::empty().await;
    let mut settings = Settings::default().store;
    settings.sharding = Sharding::None;
    let store = Store::open(database.connect.clone(), settings);
    store.migrate().await.unwrap();
    store.close().await;
    database
}

async fn distribute(database: &Database, shards: Option<u32>) -> Result<Distribution, DistributeError> {
    let distributor = Distributor::connect(database.connect.clone()).await.unwrap();
    distributor.distribute(shards).await
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The number of rows and a digest of them, and the local size on the coordinator, for each table.
async fn contents(connection: &mut PgConnection) -> Vec<(&'static str, i64, i64)> {
    let mut contents = Vec::new();
    for (table, _) in DISTRIBUTED_TABLES {
        let select = format!(
            "select count(*), coalesce(sum(hashtext({table}::text)), 0)::int8
             from {table}"
        );
        let (rows, digest): (i64, i64) = sqlx::query_as(AssertSqlSafe(select))
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        contents.push((table, rows, digest));
    }
    contents
}

/// Bytes of the tables on the coordinator.
async fn local_bytes(connection: &mut PgConnection) -> i64 {
    let tables: Vec<&str> = DISTRIBUTED_TABLES.into_iter().map(|(table, _)| table).collect();
    sqlx::query_scalar("select sum(pg_relation_size(name::regclass))::int8 from unnest($1::text[]) as name")
        .bind(tables)
        .fetch_one(connection)
        .await
        .unwrap()
}

/// The values of a setting in sessions of the coordinator at the workers.
async fn at_workers(connection: &mut PgConnection, setting: &str) -> Vec<String> {
    let show = format!("select result from run_command_on_workers('show {setting}')");
    sqlx::query_scalar(AssertSqlSafe(show))
        .fetch_all(connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn distribute_keeps_all_rows_and_may_be_repeated() {
    if skipped_without_citus() {
        return;
    }
    let database = database_with_rows().await;
    let before = contents(&mut database.connect().await).await;
    let distribution = distribute(&database, None).await.unwrap();
    let tables: Vec<&str> = DISTRIBUTED_TABLES.into_iter().map(|(table, _)| table).collect();
    assert_eq!(distribution.tables, tables);
    assert_eq!(distribution.shards, SHARDS_DEFAULT);
    let mut connection = database.connect().await;
    assert_eq!(contents(&mut connection).await, before);
    assert_eq!(
        local_bytes(&mut connection).await,
        0,
        "copies are left on the coordinator"
    );

    let again = distribute(&database, Some(SHARDS_DEFAULT)).await.unwrap();
    assert_eq!(
        again,
        Distribution {
            tables: Vec::new(),
            ..distribution
        }
    );
    assert_eq!(contents(&mut connection).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_spirit_are_in_the_same_shard_and_workers_have_the_settings() {
    if skipped_without_citus() {
        return;
    }
    let database = database_with_rows().await;
    distribute(&database, Some(4)).await.unwrap();
    let mut connection = database.connect().await;
    let groups: Vec<(i64,)> = sqlx::query_as(
        "select count(*)
         from pg_dist_shard
         join pg_dist_placement using (shardid)
         group by shardminvalue, shardmaxvalue, groupid",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(groups, vec![(DISTRIBUTED_TABLES.len().try_into().unwrap(),); 4]);
    for setting in ["enable_bitmapscan", "enable_seqscan", "jit"] {
        let values = at_workers(&mut connection, setting).await;
        assert!(
            !values.is_empty() && values.iter().all(|value| value == "off"),
            "{setting}: {values:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn distribute_refuses_another_number_of_shards_and_another_layout() {
    if skipped_without_citus() {
        return;
    }
    let database = migrated().await;
    distribute(&database, Some(2)).await.unwrap();
    let refused = distribute(&database, Some(3)).await.unwrap_err();
    assert!(
        matches!(refused, DistributeError::OtherShards { found: 2, wanted: 3 }),
        "{refused}"
    );
    // The statement that the message proposes.
    let (_, proposed) = refused
        .to_string()
        .split_once('`')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    run(&mut database.connect().await, proposed.split('`').next().unwrap()).await;
    assert_eq!(distribute(&database, Some(3)).await.unwrap().shards, 3);

    let database = migrated().await;
    run(
        &mut database.connect().await,
        "select create_reference_table('purges')",
    )
    .await;
    let refused = distribute(&database, None).await.unwrap_err();
    assert!(
        matches!(&refused, DistributeError::OtherLayout(table) if table == "purges"),
        "{refused}"
    );
    let message = refused.to_string();
    let proposed = message.split('`').nth(1).unwrap();
    run(&mut database.connect().await, proposed).await;
    distribute(&database, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn distribute_refuses_a_worker_and_a_cluster_without_workers() {
    if skipped_without_citus() {
        return;
    }
    let database = migrated().await;
    let mut connection = database.connect().await;
    let (host, port): (String, i32) = sqlx::query_as(
        "select nodename, nodeport from pg_dist_node where shouldhaveshards order by groupid limit 1",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let port = u16::try_from(port).unwrap();
    let worker = Distributor::connect(database.connect.clone().host(&host).port(port))
        .await
        .unwrap();
    let refused = worker.distribute(None).await.unwrap_err();
    assert!(matches!(refused, DistributeError::NotCoordinator), "{refused}");

    run(
        &mut connection,
        "select citus_set_node_property(nodename, nodeport, 'shouldhaveshards', false) from pg_dist_node",
    )
    .await;
    let refused = distribute(&database, None).await.unwrap_err();
    assert!(matches!(refused, DistributeError::NoWorkers), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn distribute_names_a_worker_that_does_not_answer_and_leaves_the_tables() {
    if skipped_without_citus() {
        return;
    }
    let database = migrated().await;
    let mut connection = database.connect().await;
    // Port 1 refuses connections.
    run(
        &mut connection,
        "update pg_dist_node
         set nodeport = 1
         where groupid = (select max(groupid) from pg_dist_node)",
    )
    .await;
    let refused = distribute(&database, None).await.unwrap_err();
    assert!(
        matches!(&refused, DistributeError::WorkerFailed { node, .. } if node.ends_with(":1")),
        "{refused}"
    );
    let tables: i64 = sqlx::query_scalar("select count(*) from citus_tables")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(tables, 0);
}
