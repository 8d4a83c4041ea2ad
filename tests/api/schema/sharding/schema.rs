//! Tables and keys.

use elephantasm_events::store::DISTRIBUTED_TABLES;

use crate::support::harness::TestServer;

/// Objects that the tables of a sharded database cannot have, or would have once for each shard: tables without a spirit but
/// for those that are read as a whole, unique indexes without the spirit, foreign keys, triggers, sequences.
const OBSTACLES: &str = "
    with sharded as (
        select attrelid as id, attnum as key
        from pg_attribute
        where (attrelid, attname) = ('spirits'::regclass, 'id')
        or attname = 'spirit_id' and attrelid in (select oid from pg_class where relkind = 'r')
    )
    select 'table without a spirit: ' || relname
    from pg_class
    where relnamespace = 'public'::regnamespace
    and relkind = 'r'
    and relname not in ('keys', '_sqlx_migrations')
    and oid not in (select id from sharded)
    union all
    select 'unique index without the spirit: ' || indexrelid::regclass
    from pg_index
    join sharded on sharded.id = indrelid
    where indisunique
    and sharded.key <> all (indkey)
    union all
    select 'constraint over several tables: ' || conname
    from pg_constraint
    where conrelid in (select id from sharded)
    and contype = 'f'
    union all
    select 'trigger: ' || tgname
    from pg_trigger
    where tgrelid in (select id from sharded)
    union all
    select 'sequence: ' || relname
    from pg_class
    where relnamespace = 'public'::regnamespace
    and relkind = 'S'";

/// Tables with a spirit, and the column of its id.
const TABLES_OF_SPIRITS: &str = "
    select relname::text, attname::text
    from pg_attribute
    join pg_class on pg_class.oid = attrelid
    where relnamespace = 'public'::regnamespace
    and relkind = 'r'
    and (attname = 'spirit_id' or (relname, attname) = ('spirits', 'id'))
    order by relname";

#[tokio::test]
async fn exactly_the_tables_with_a_spirit_are_distributed_and_spirits_first() {
    let server = TestServer::start().await;
    let found: Vec<(String, String)> = sqlx::query_as(TABLES_OF_SPIRITS)
        .fetch_all(&mut server.database.connect().await)
        .await
        .unwrap();
    let mut distributed = DISTRIBUTED_TABLES.map(|(table, column)| (table.to_owned(), column.to_owned()));
    assert_eq!(distributed[0].0, "spirits");
    distributed.sort();
    assert_eq!(found, distributed);
}

#[tokio::test]
async fn tables_and_unique_keys_contain_the_spirit_and_nothing_spans_spirits() {
    let server = TestServer::start().await;
    let mut connection = server.database.connect().await;
    let found: Vec<(String,)> = sqlx::query_as(OBSTACLES)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(found, []);
}
