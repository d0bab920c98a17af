//! The store suite on Postgres, with the rights of `deploy/grants.sql` and no others; a server that is gone without a word, and one
//! whose disk is full; what only Postgres has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gristmill_common::batch::NewBatch;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::id::{BatchId, OwnerId};
use gristmill_common::store::{Opened, PostgresStore, Store as _};
use gristmill_tests::database::TestDatabase;
use gristmill_tests::proxy::Proxy;
use gristmill_tests::suite::store::caching::{BRIEF, an_answer_that_is_gone_is_asked_for_again};
use gristmill_tests::suite::store::{
    LONG, Lab, SHORT, chunk, eventually, jobs, new_batch, owner, success, worker_info,
};
use secrecy::ExposeSecret as _;

async fn open() -> Lab {
    lab(TestDatabase::create().await).await
}

async fn lab(database: TestDatabase) -> Lab {
    let user = database.user(&["gristmill_worker", "gristmill_producer"]).await;
    let open = async || Arc::new(PostgresStore::connect(&user, "gristmill-test").await.expect("a user was made"));
    let owner = Arc::new(database.store().await);
    let brief =
        PostgresStore::connect(&user, "gristmill-test").await.expect("a user was made").with_cache(BRIEF).shared();
    Lab { store: open().await, other: open().await, owner, brief, guard: Box::new(database) }
}

gristmill_tests::store_suite!(open);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_without_a_word_is_given_up_and_found_again() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(database.url().expose_secret()).await;
    let url = proxy.url(database.url().expose_secret());
    let store = PostgresStore::connect(&url, "gristmill-test").await.unwrap().with_patience(Duration::from_secs(2));
    eventually("it answers", || async { store.due(10).await.ok() }).await;
    proxy.swallow(true);
    // More than the pool has connections, so that none is left that still waits for an answer.
    let started = Instant::now();
    let calls = join_all((0..20).map(|_| store.keep(owner(), LONG)));
    for answer in calls.await {
        let error = answer.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
    // Below the default patience.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    proxy.swallow(false);
    eventually("it answers again", || async { store.due(10).await.ok() }).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_dropped_once_they_are_empty() {
    let lab = open().await;
    let day = chrono::NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
    let later = day.succ_opt().unwrap();
    lab.store.ensure_partitions(day).await.unwrap();
    let producer = owner();
    let at = day.and_hms_opt(12, 0, 0).unwrap().and_utc();
    let new = NewBatch { id: BatchId::new(at), created_at: at, ..new_batch("old", producer) };
    lab.store.open_batch(&new, LONG).await.unwrap();
    let jobs = jobs(new.id, 0..3);
    lab.store.record(chunk(producer, &jobs, 0)).await.unwrap();
    lab.store.seal(new.id, producer).await.unwrap();
    lab.ended(lab.worker(LONG).await, &jobs, &success("a")).await;
    assert_eq!(lab.owner.drop_empty_partitions(later).await.unwrap(), [], "they hold rows");
    assert!(!lab.owner.forget(new.id, 10).await.unwrap().more);
    assert_eq!(lab.owner.drop_empty_partitions(day).await.unwrap(), [], "they are not old enough");
    let dropped = lab.owner.drop_empty_partitions(later).await.unwrap();
    let names: Vec<_> = dropped.iter().map(|partition| partition.name.as_str()).collect();
    assert_eq!(names, ["attempt_20240229", "job_20240229", "result_20240229"]);
    assert!(dropped.iter().all(|partition| partition.bytes > 0));
    // What comes late has its place.
    assert!(matches!(lab.store.open_batch(&new, LONG).await.unwrap(), Opened::Created(_)));
    lab.store.record(chunk(producer, &jobs, 0)).await.unwrap();
    assert_eq!(lab.store.jobs(new.id, None, None, 10).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_cache_whose_result_was_deleted_by_hand_is_asked_for_again() {
    let database = TestDatabase::create().await;
    let mut connection = database.connect().await;
    let delete = async || {
        sqlx::raw_sql("DELETE FROM gristmill.result").execute(&mut connection).await.unwrap();
    };
    an_answer_that_is_gone_is_asked_for_again(&lab(database).await, delete).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_server_is_said_and_may_pass() {
    let database = TestDatabase::create().await;
    let store = database.store().await;
    // What Postgres reports when it cannot grow a file, https://www.postgresql.org/docs/15/errcodes-appendix.html.
    let full = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
                  $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
                CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON gristmill.keeper
                  FOR EACH STATEMENT EXECUTE FUNCTION full_disk()";
    let mut connection = database.connect().await;
    sqlx::raw_sql(full).execute(&mut connection).await.unwrap();
    let keep = async || store.keep(OwnerId::new(SystemClock.now()), Duration::from_secs(9)).await;
    let error = keep().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("no space is left on the disk of PostgreSQL while"), "{text}");
    sqlx::raw_sql("DROP TRIGGER full_disk ON gristmill.keeper").execute(&mut connection).await.unwrap();
    keep().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_stands_still_in_a_copy_is_ended_once_somebody_is_dead() {
    let database = TestDatabase::create().await;
    let store = database.store().await;
    let standing = sqlx::PgPool::connect(database.url().expose_secret()).await.unwrap();
    let mut tx = standing.begin().await.unwrap();
    let session: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
    let began = Instant::now();
    let copy = tx.copy_in_raw("-- attempts come\nCOPY gristmill.attempt (job_id) FROM STDIN").await.unwrap();
    let mut observer = database.connect().await;
    let mut stands = async || {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
        sqlx::query_scalar::<_, bool>(sql).bind(session).fetch_one(&mut observer).await.unwrap()
    };

    store.register(&worker_info(owner()), SHORT).await.unwrap();
    let patience = Duration::from_secs(1);
    let store = store.with_patience(patience);
    while stands().await {
        assert!(began.elapsed() < Duration::from_secs(60), "it stands still");
        if let Err(error) = store.bury(3, 100).await {
            assert!(error.is_transient(), "{error}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() > patience * 6, "a session that may live was ended");
    assert!(copy.finish().await.is_err(), "its transaction is gone");
}
