//! Profiles in PostgreSQL: a query for users and one for groups, each with all ids as `$1`, an array
//! of texts, that gives rows of an id and its traits. Both travel together: one round trip.
//!
//! TLS is spoken as the URL's `sslmode` asks; certificates are always checked.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Config, Statement};
use tokio_rustls::TlsConnector;
use tracklog_log::Pending;
use tracklog_pipeline::enrich::profile::external::{Answer, FetchError, ProfileStore};
use tracklog_pipeline::state::Entity;

use super::connection::Shared;
use crate::config::ForEach;
use crate::trust;

/// A client of PostgreSQL.
pub(super) struct PostgresProfiles {
    config: Config,
    tls: MakeTls,
    session: Shared<Arc<Session>>,
    queries: ForEach,
}

/// A connection with its prepared queries.
struct Session {
    client: Client,
    users: Option<Statement>,
    groups: Option<Statement>,
}

type Traits = HashMap<String, Answer>;

impl PostgresProfiles {
    /// Of the server at `url`: `postgres://…`, or words like `host=… user=…`.
    pub(super) fn new(url: &str, queries: ForEach) -> Result<Self, String> {
        let mut config: Config = url.parse().map_err(|error| reason(&error))?;
        config.application_name("tracklog");
        Ok(Self { config, tls: MakeTls::new(), session: Shared::new(), queries })
    }

    async fn connect(&self) -> Result<Arc<Session>, FetchError> {
        let (client, connection) = self.config.connect(self.tls.clone()).await.map_err(failed)?;
        // It ends when the client is dropped, and what it fails with the client says as well.
        tokio::spawn(async move { drop(connection.await) });
        let users = prepare(&client, self.queries.user.as_deref()).await?;
        let groups = prepare(&client, self.queries.group.as_deref()).await?;
        Ok(Arc::new(Session { client, users, groups }))
    }

    async fn answers(&self, of: &[Entity<'_>]) -> Result<Vec<Answer>, FetchError> {
        let mut ids = (Vec::new(), Vec::new());
        for entity in of {
            match entity {
                Entity::User(id) => ids.0.push(*id),
                Entity::Group(id) => ids.1.push(*id),
            }
        }
        let lent = self.session.lend(self.connect()).await?;
        let session = &lent.connection;
        let (users, groups) = tokio::try_join!(
            session.traits(session.users.as_ref(), &ids.0),
            session.traits(session.groups.as_ref(), &ids.1),
        )?;
        lent.worked();
        let answer = |entity: &Entity<'_>| {
            let found = match entity {
                Entity::User(_) => &users,
                Entity::Group(_) => &groups,
            };
            found.get(entity.id()).cloned().unwrap_or(Ok(None))
        };
        Ok(of.iter().map(answer).collect())
    }
}

impl ProfileStore for PostgresProfiles {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn fetch<'a>(&'a self, of: &'a [Entity<'a>]) -> Pending<'a, Result<Vec<Answer>, FetchError>> {
        Box::pin(self.answers(of))
    }
}

async fn prepare(client: &Client, query: Option<&str>) -> Result<Option<Statement>, FetchError> {
    let Some(query) = query else { return Ok(None) };
    let statement = client.prepare_typed(query, &[Type::TEXT_ARRAY]).await.map_err(failed)?;
    match statement.columns() {
        [id, traits] if <String as FromSql<'_>>::accepts(id.type_()) => {
            match JsonText::accepts(traits.type_()) {
                true => Ok(Some(statement)),
                false => Err(no_query(&format!("its traits are of type {}", traits.type_()))),
            }
        }
        [id, _] => Err(no_query(&format!("its ids are of type {}: cast them to text", id.type_()))),
        columns => Err(no_query(&format!("it gives {} columns", columns.len()))),
    }
}

fn no_query(what: &str) -> FetchError {
    FetchError { why: format!("the query should give texts and JSON objects, but {what}") }
}

impl Session {
    async fn traits(
        &self,
        statement: Option<&Statement>,
        ids: &[&str],
    ) -> Result<Traits, FetchError> {
        let Some(statement) = statement.filter(|_| !ids.is_empty()) else {
            return Ok(Traits::new());
        };
        let rows = self.client.query(statement, &[&ids]).await.map_err(failed)?;
        let pair = |row: &tokio_postgres::Row| -> Result<_, tokio_postgres::Error> {
            let id: Option<String> = row.try_get(0)?;
            let traits: Option<JsonText> = row.try_get(1)?;
            Ok(id.map(|id| (id, Ok(traits.map(|JsonText(text)| text)))))
        };
        rows.iter()
            .filter_map(|row| pair(row).transpose())
            .collect::<Result<_, _>>()
            .map_err(failed)
    }
}

/// The text of a JSON document, of whichever type it is stored as.
struct JsonText(String);

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(of: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let bytes = match (of, bytes) {
            // The version of the format, and the text behind it.
            (&Type::JSONB, [1, text @ ..]) => text,
            (&Type::JSONB, _) => return Err("a version of jsonb that is not known".into()),
            _ => bytes,
        };
        Ok(Self(str::from_utf8(bytes)?.to_owned()))
    }

    fn accepts(of: &Type) -> bool {
        matches!(*of, Type::JSON | Type::JSONB) || <String as FromSql<'_>>::accepts(of)
    }
}

fn failed(error: tokio_postgres::Error) -> FetchError {
    FetchError { why: reason(&error) }
}

/// What the server said, or else what went wrong on the way there.
fn reason(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => said.message().to_owned(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// TLS as this program speaks it.
#[derive(Clone)]
struct MakeTls(Arc<ClientConfig>);

impl MakeTls {
    /// Where the system trusts nobody, no server that speaks TLS is either.
    fn new() -> Self {
        let roots = trust::of_the_system().unwrap_or_else(|_| RootCertStore::empty());
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS 1.2 and 1.3 need")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(config))
    }
}

/// TLS with one server.
struct TlsWith {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A connection with TLS.
struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for MakeTls {
    type Stream = Encrypted<S>;
    type TlsConnect = TlsWith;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<TlsWith, Self::Error> {
        let name = ServerName::try_from(host)?.to_owned();
        Ok(TlsWith { connector: TlsConnector::from(Arc::clone(&self.0)), name })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for TlsWith {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pending<'static, io::Result<Encrypted<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(Encrypted) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
