//! Databases on a Citus cluster, on which the tests run if `EVENTS_TEST_CITUS_URL` names its coordinator.
//!
//! The role of the URL has to be a superuser, and its database has to have the extension and all workers.

use std::str::FromStr as _;

use elephantasm_events::store::Distributor;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use uuid::Uuid;

const URL: &str = "EVENTS_TEST_CITUS_URL";

/// Address of a node, as the other nodes connect to it.
#[derive(Clone, sqlx::FromRow)]
struct Address {
    #[sqlx(rename = "nodename")]
    host: String,
    #[sqlx(rename = "nodeport")]
    port: i32,
}

/// A cluster that was started outside of the tests.
pub struct CitusCluster {
    /// The coordinator first.
    nodes: Vec<PgConnectOptions>,
    addresses: Vec<Address>,
}

/// A distributed database that is copied for each test, on all nodes.
pub struct Template {
    name: String,
    /// Statements for the settings of the role, which are not copied.
    role_settings: Vec<String>,
}

/// Returns whether the tests run on a cluster.
pub fn is_wanted() -> bool {
    std::env::var_os(URL).is_some()
}

/// Returns true if a test is skipped because it needs a cluster and there is none, and prints that.
pub fn skipped_without_citus() -> bool {
    if !is_wanted() {
        eprintln!("SKIPPED: {URL} is not set");
    }
    !is_wanted()
}

impl CitusCluster {
    /// Returns the cluster of the variable, if it is set.
    pub async fn from_env() -> Option<Self> {
        let url = std::env::var(URL).ok()?;
        let coordinator = PgConnectOptions::from_str(&url).unwrap();
        let addresses: Vec<Address> = sqlx::query_as(
            "select nodename, nodeport from pg_dist_node where noderole = 'primary' order by groupid",
        )
        .fetch_all(&mut coordinator.connect().await.unwrap())
        .await
        .unwrap();
        assert!(
            addresses.len() >= 2,
            "the cluster needs its coordinator's address and a worker"
        );
        let workers = addresses.iter().skip(1).map(|address| {
            let port = u16::try_from(address.port).unwrap();
            coordinator.clone().host(&address.host).port(port)
        });
        Some(Self {
            nodes: [coordinator.clone()].into_iter().chain(workers).collect(),
            addresses,
        })
    }

    /// Returns how to connect to the coordinator.
    pub fn coordinator(&self) -> &PgConnectOptions {
        &self.nodes[0]
    }

    /// Creates a database with all nodes and without tables.
    pub async fn create_empty(&self) -> PgConnectOptions {
        let database = self.create_on_every_node("template1").await;
        for node in &self.nodes {
            let mut connection = node.clone().database(&database).connect().await.unwrap();
            run(&mut connection, "create extension citus").await;
        }
        let connect = self.coordinator().clone().database(&database);
        let mut connection = connect.connect().await.unwrap();
        for (index, Address { host, port }) in self.addresses.iter().enumerate() {
            let function = if index == 0 {
                "citus_set_coordinator_host"
            } else {
                "citus_add_node"
            };
            run(&mut connection, &format!("select {function}('{host}', {port})")).await;
        }
        connect
    }

    /// Creates the template from a migrated database.
    pub async fn template(&self, migrated: PgConnectOptions) -> Template {
        let distributor = Distributor::connect(migrated.clone()).await.unwrap();
        let role_settings = distributor.distribute(None).await.unwrap().role_settings;
        let name = migrated.get_database().unwrap().to_owned();
        for node in &self.nodes {
            let mut connection = node.connect().await.unwrap();
            run(
                &mut connection,
                &format!("alter database {name} allow_connections false"),
            )
            .await;
            run(
                &mut connection,
                &format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"),
            )
            .await;
        }
        Template { name, role_settings }
    }

    /// Creates a database as a copy of the template.
    pub async fn create_from(&self, template: &Template) -> PgConnectOptions {
        let database = self.create_on_every_node(&template.name).await;
        let connect = self.coordinator().clone().database(&database);
        let mut connection = connect.connect().await.unwrap();
        for statement in &template.role_settings {
            run(&mut connection, &statement.replace(&template.name, &database)).await;
        }
        connect
    }

    /// Removes a database from all nodes. Each database with the extension has a process on each node.
    pub async fn drop_database(&self, name: &str) {
        for node in &self.nodes {
            let mut connection = node.connect().await.unwrap();
            run(&mut connection, &format!("drop database {name} with (force)")).await;
        }
    }

    async fn create_on_every_node(&self, template: &str) -> String {
        let name = format!("test_{}", Uuid::now_v7().simple());
        for node in &self.nodes {
            let mut connection = node.connect().await.unwrap();
            run(
                &mut connection,
                &format!("create database {name} template {template}"),
            )
            .await;
        }
        name
    }
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}
