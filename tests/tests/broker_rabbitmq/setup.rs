//! What can be wrong before anything runs, and how it is told.

use bytes::Bytes;
use gristmill_common::broker::{Aside, Broker as _, Error, Outgoing, RabbitBroker, RabbitOptions};
use gristmill_common::job::Priority;
use gristmill_tests::rabbit::{TestRabbit, url};
use gristmill_tests::suite::broker::lane;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::task::TaskTracker;

use super::key;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_named_with_what_to_do() {
    let rabbit = TestRabbit::new(&["m"]);
    let connection = rabbit.connect().await;
    let channel = connection.create_channel().await.unwrap();
    let high = rabbit.queue(&key(Priority::High));
    channel.queue_declare(high.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default()).await.unwrap();
    let broker = rabbit.broker().await;
    for answer in [broker.declare(&["m".to_owned()]).await, broker.consume("m", 1).await.map(drop)] {
        let Err(Error::Setup(text)) = answer else { panic!("{answer:?}") };
        assert!(text.contains(&format!("the queue `{high}` exists with other arguments")), "{text}");
        assert!(text.contains(&format!("rabbitmqctl delete_queue {high}")), "{text}");
    }
    broker.declare(&[]).await.unwrap();
    drop(broker);

    let other = TestRabbit::new(&[]);
    let dead = format!("{}.dead", other.prefix());
    channel.queue_declare(dead.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default()).await.unwrap();
    let Err(Error::Setup(text)) = RabbitBroker::connect(other.options()).await else { panic!("it must not connect") };
    assert!(text.contains(&format!("the queue `{dead}` exists with other arguments")), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_longer_than_amqp_allows_are_refused_before_anything_is_sent() {
    let rabbit = TestRabbit::new(&[]);
    let broker = rabbit.broker().await;
    let group = "x".repeat(300);
    let message = Outgoing { lane: lane(&group, Priority::High, 0), payload: Bytes::new(), traceparent: None };
    let answers = [
        broker.declare(std::slice::from_ref(&group)).await,
        broker.publish(vec![message]).await.map(drop),
        broker.consume(&group, 1).await.map(drop),
        broker.put_aside(Aside::Dead, &group, "reason", Bytes::new()).await,
    ];
    for answer in answers {
        assert!(matches!(&answer, Err(Error::Setup(text)) if text.contains("255")), "{answer:?}");
    }
    broker.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_address_is_told_in_one_line_without_the_password() {
    let connect = async |url: String| {
        let options = RabbitOptions::new(SecretString::from(url));
        RabbitBroker::connect(options).await.map(drop).unwrap_err()
    };
    let real = url::Url::parse(&url()).unwrap();
    let with = |change: &dyn Fn(&mut url::Url)| {
        let mut url = real.clone();
        change(&mut url);
        url.to_string()
    };
    // A port that nobody listens on, and that nobody else can take.
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let nobody = taken.local_addr().unwrap().port();
    // Something else listens, and says something else.
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let another = other.local_addr().unwrap().port();
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            // Read to the end, or the end of the connection could come before the answer.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    // Something listens, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let quiet = silent.local_addr().unwrap().port();

    let server = format!("{}:{}", real.host_str().unwrap(), real.port().unwrap_or(5672));
    let local = |port: u16| format!("amqp://canary-user:canary-password@127.0.0.1:{port}/%2f");
    let cases = [
        (local(nobody), true, format!("no RabbitMQ at 127.0.0.1:{nobody}; start it or set AMQP_URL")),
        (local(another), false, format!("what listens at 127.0.0.1:{another} is not RabbitMQ")),
        (local(quiet), true, format!("no answer in time from 127.0.0.1:{quiet}")),
        (
            "amqp://canary-user:canary-password@gristmill.invalid/".to_owned(),
            true,
            "no RabbitMQ at gristmill.invalid:5672".to_owned(),
        ),
        (
            with(&|url| url.set_password(Some("canary-password")).unwrap()),
            false,
            format!("RabbitMQ at {server} refuses the user or the password"),
        ),
        (
            with(&|url| url.set_path("/no-such-vhost")),
            false,
            format!("RabbitMQ at {server} refuses the virtual host `no-such-vhost`"),
        ),
        ("canary-password".to_owned(), false, "AMQP_URL is not an address like".to_owned()),
    ];
    for (url, transient, expected) in cases {
        let error = connect(url).await;
        let text = error.to_string();
        // Where names are looked up at length, the time is over before the answer.
        let unheard = text.contains("no answer in time from gristmill.invalid:5672");
        assert!(text.contains(&expected) || unheard, "{text}");
        assert_eq!(error.is_transient(), transient, "{text}");
        assert!(!text.contains("canary") && !text.contains('\n') && !format!("{error:?}").contains("canary"), "{text}");
    }
}
