//! A Postgres database of a test's own, made from a template that has the schema, and dropped with the value.
#![expect(clippy::unwrap_used, reason = "a harness of tests: what fails must panic")]

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gristmill_common::clock::{Clock, SystemClock};
use gristmill_common::store::{Error, PostgresStore, Store};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

/// Names the variable that holds the URL of a database whose user may create others.
pub const ADMIN_URL: &str = "GRISTMILL_TEST_DATABASE_URL";
/// What each kind of program may do.
const GRANTS: &str = include_str!("../../deploy/grants.sql");
/// The roles that it grants to.
const ROLES: [&str; 3] = ["gristmill_worker", "gristmill_producer", "gristmill_reader"];
/// Test databases older than this are left-overs of killed tests.
const STALE_S: i64 = 3600;
/// How long other tests may use up the server's connections.
const PATIENCE: Duration = Duration::from_secs(120);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A database of its own.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: SecretString,
}

impl TestDatabase {
    /// Makes a database with the current schema.
    pub async fn create() -> Self {
        let template = template().await;
        Self::make(Some(&template)).await
    }

    /// Makes an empty database.
    pub async fn create_empty() -> Self {
        Self::make(None).await
    }

    async fn make(template: Option<&str>) -> Self {
        let mut admin = admin().await;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gristmill_test_{}_{}_{count}", SystemClock.now().timestamp(), std::process::id());
        let template = template.map(|template| format!(" TEMPLATE {template}")).unwrap_or_default();
        execute(&mut admin, &format!("CREATE DATABASE {name}{template}")).await;
        admin.close().await.unwrap();
        let mut url = url::Url::parse(&admin_url()).unwrap();
        url.set_path(&name);
        Self { name, url: url.to_string().into() }
    }

    /// Returns the URL of the database.
    pub const fn url(&self) -> &SecretString {
        &self.url
    }

    /// Returns the name of the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a store on it.
    pub async fn store(&self) -> PostgresStore {
        open(&self.url).await
    }

    /// Makes a user who has these of the roles of `deploy/grants.sql` and no other right; returns its URL.
    ///
    /// Roles belong to the whole server, so those of the test have the database's name in theirs.
    pub async fn user(&self, roles: &[&str]) -> SecretString {
        let own = |role: &str| role.replacen("gristmill", &self.name, 1);
        let grants = ROLES.iter().fold(GRANTS.to_owned(), |sql, role| sql.replace(role, &own(role)));
        let mut owner = self.connect().await;
        execute(&mut owner, &grants).await;
        let user = format!("{}_user_{}", self.name, COUNT.fetch_add(1, Ordering::Relaxed));
        let member_of: Vec<String> = roles.iter().map(|role| own(role)).collect();
        let create = format!("CREATE ROLE {user} LOGIN PASSWORD 'granted' IN ROLE {}", member_of.join(", "));
        execute(&mut owner, &create).await;
        let mut url = url::Url::parse(self.url.expose_secret()).unwrap();
        url.set_username(&user).unwrap();
        url.set_password(Some("granted")).unwrap();
        url.to_string().into()
    }

    /// Opens a connection of the test's own.
    pub async fn connect(&self) -> PgConnection {
        connect(self.url.expose_secret()).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let name = self.name.clone();
        // The test's runtime may be gone or stuck: drop from a thread with its own.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut admin = admin().await;
                discard(&mut admin, &name).await;
            });
        });
        // A database that stays is swept by a later run.
        let _ = dropped.join();
    }
}

fn admin_url() -> String {
    std::env::var(ADMIN_URL).unwrap_or_else(|_| panic!("{ADMIN_URL} is not set: run the tests by ./scripts/test"))
}

async fn admin() -> PgConnection {
    connect(&admin_url()).await
}

/// Connects; waits while other tests use up the server's connections.
async fn connect(url: &str) -> PgConnection {
    let options = PgConnectOptions::from_str(url).unwrap();
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        match options.connect().await {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("53300") => {}
            connected => return connected.unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the server of {ADMIN_URL} has no free connections");
}

/// Opens a store; waits as [`connect`] does.
async fn open(url: &SecretString) -> PostgresStore {
    let started = Instant::now();
    loop {
        match PostgresStore::connect(url, "gristmill-test").await {
            // A pool tries for some seconds by itself, and then says that nobody answers.
            Err(Error::Setup(_)) if started.elapsed() < PATIENCE => {}
            opened => return opened.unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Drops a test's database and its roles.
async fn discard(admin: &mut PgConnection, name: &str) {
    execute(admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    let roles: Vec<String> = sqlx::query_scalar("SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1 || '_')")
        .bind(name)
        .fetch_all(&mut *admin)
        .await
        .unwrap();
    for role in roles {
        execute(admin, &format!("DROP ROLE {role}")).await;
    }
}

/// Makes the template of the current schema once, whichever test comes first.
async fn template() -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    let mut hasher = DefaultHasher::new();
    include_str!("../../migrations/postgres/0001_core.sql").hash(&mut hasher);
    include_str!("../../migrations/postgres/0002_account.sql").hash(&mut hasher);
    include_str!("../../migrations/postgres/0003_costs.sql").hash(&mut hasher);
    let name = format!("gristmill_template_{:016x}", hasher.finish());
    let mut admin = admin().await;
    // Tests run in many processes at once; the lock ends with the connection.
    execute(&mut admin, "SELECT pg_advisory_lock(7461726573)").await;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    if !exists {
        sweep(&mut admin).await;
        let making = format!("{name}_making");
        execute(&mut admin, &format!("DROP DATABASE IF EXISTS {making} WITH (FORCE)")).await;
        execute(&mut admin, &format!("CREATE DATABASE {making}")).await;
        let mut url = url::Url::parse(&admin_url()).unwrap();
        url.set_path(&making);
        let store = open(&url.to_string().into()).await;
        store.migrate().await.unwrap();
        drop(store);
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        sqlx::query(end).bind(&making).execute(&mut admin).await.unwrap();
        execute(&mut admin, &format!("ALTER DATABASE {making} RENAME TO {name}")).await;
    }
    admin.close().await.unwrap();
    name
}

/// Drops what killed tests and older schemas left.
async fn sweep(admin: &mut PgConnection) {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT datname FROM pg_database WHERE datname LIKE 'gristmill\\_test\\_%'")
            .fetch_all(&mut *admin)
            .await
            .unwrap();
    let now = SystemClock.now().timestamp();
    for name in names {
        let made: Option<i64> = name.split('_').nth(2).and_then(|made| made.parse().ok());
        if made.is_none_or(|made| now - made > STALE_S) {
            discard(admin, &name).await;
        }
    }
}
