//! A database that cannot store every character is refused.

use elephantasm_events::store::{StartupError, Store};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use uuid::Uuid;

use crate::support::harness::{Database, Settings};

/// Creates an empty database in this encoding, beside those of other tests.
async fn create_database(connection: &mut PgConnection, encoding: &str) -> String {
    let name = format!("test_{}", Uuid::now_v7().simple());
    let create = format!(
        "create database {name} encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'"
    );
    sqlx::query(AssertSqlSafe(create))
        .execute(connection)
        .await
        .unwrap();
    name
}

#[tokio::test]
async fn a_database_in_another_encoding_than_utf8_is_refused_for_good_and_left_empty() {
    let database = Database::empty().await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = create_database(&mut database.connect().await, encoding).await;
        let connect = database.connect.clone().database(&name);
        let store = Store::open(connect.clone(), Settings::default().store);
        let error = store.migrate().await.unwrap_err();
        assert!(matches!(&error, StartupError::Encoding(found) if found == encoding));
        assert!(!error.is_transient(), "a retry does not help");
        let message = error.to_string();
        assert!(
            message.contains(encoding) && message.contains("UTF8"),
            "{message}"
        );
        let mut connection = connect.connect().await.unwrap();
        let (tables,): (i64,) = sqlx::query_as("select count(*) from pg_tables where schemaname = 'public'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(tables, 0);
    }
}
