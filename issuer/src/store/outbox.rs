//! Events, who subscribes to them, and what has to be delivered to whom.

use rusqlite::{Connection, OptionalExtension, Row, types::Value as Sql};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{Page, StoreError, cards::TimeRange, json, page, to_json};
use crate::{
    signing::{OVERLAP, SigningSecrets, new_secret},
    time::Time,
};

/// Something that happened, as it is delivered.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct OutboxEvent {
    pub(crate) token: String,
    pub(crate) event_type: String,
    pub(crate) created: i64,
    pub(crate) payload: Value,
}

const EVENT: &str = "json_object('token', token, 'event_type', type, 'created', created, 'payload', json(payload))";

/// Who wants to hear of events.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) token: String,
    pub(crate) url: String,
    pub(crate) description: String,
    pub(crate) disabled: bool,
    /// None: all.
    pub(crate) event_types: Option<Vec<String>>,
    pub(crate) secrets: SigningSecrets,
}

/// One event that is to be delivered to one subscription.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) event: i64,
    pub(crate) subscription: i64,
    pub(crate) attempts: u32,
    /// The event's, the same in every attempt.
    pub(crate) id: String,
    pub(crate) payload: String,
    pub(crate) url: String,
    pub(crate) secrets: SigningSecrets,
}

/// Writes an event down, and its delivery to everybody who wants it. To be committed with what it tells.
pub(crate) fn announce(
    connection: &Connection,
    kind: &str,
    payload: &Value,
    now: Time,
    due: Time,
) -> Result<(), StoreError> {
    let token = format!("msg_{}", Uuid::new_v4().simple());
    connection.prepare_cached("INSERT INTO event (token, type, created, payload) VALUES (?, ?, ?, ?)")?.execute((
        &token,
        kind,
        now.0,
        payload.to_string(),
    ))?;
    let event = connection.last_insert_rowid();
    connection
        .prepare_cached(
            "INSERT INTO delivery (event, subscription, due) SELECT ?1, seq, ?2 FROM subscription
             WHERE NOT disabled AND (event_types IS NULL OR ?3 IN (SELECT value FROM json_each(event_types)))",
        )?
        .execute((event, due.0, kind))?;
    Ok(())
}

pub(crate) fn event(connection: &Connection, token: &str) -> Result<Option<OutboxEvent>, StoreError> {
    let query = format!("SELECT {EVENT} FROM event WHERE token = ?");
    let found: Option<String> = connection.prepare_cached(&query)?.query_row([token], |row| row.get(0)).optional()?;
    found.map(|event| json(&event)).transpose()
}

pub(crate) fn events(
    connection: &Connection,
    types: &[String],
    time_range: TimeRange,
    wanted: &Page,
) -> Result<Option<(Vec<OutboxEvent>, bool)>, StoreError> {
    let mut conditions: Vec<(&str, Sql)> = time_range.conditions().collect();
    if !types.is_empty() {
        conditions.push(("type IN (SELECT value FROM json_each(?))", to_json(&types)?.into()));
    }
    page(connection, "event", EVENT, conditions, wanted)
}

const SUBSCRIPTION: &str = "token, url, description, disabled, event_types, secret, old_secret, old_until";

fn secrets(row: &Row<'_>, first: usize) -> Result<SigningSecrets, StoreError> {
    let secret = |column| Ok::<_, StoreError>(row.get::<_, Option<String>>(column)?.map(SecretString::from));
    let current = secret(first)?.ok_or_else(|| StoreError::inconsistent("a receiver without a secret"))?;
    let valid = row.get::<_, Option<i64>>(first + 2)?.is_some_and(|until| Time(until) > Time::now());
    Ok(SigningSecrets { current, old: secret(first + 1)?.filter(|_| valid) })
}

fn subscription_of(row: &Row<'_>) -> Result<Subscription, StoreError> {
    Ok(Subscription {
        token: row.get(0)?,
        url: row.get(1)?,
        description: row.get(2)?,
        disabled: row.get(3)?,
        event_types: row.get::<_, Option<String>>(4)?.map(|types| json(&types)).transpose()?,
        secrets: secrets(row, 5)?,
    })
}

pub(crate) fn subscribe(connection: &Connection, new: &Subscription, now: Time) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO subscription (token, url, description, disabled, event_types, secret, created)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            &new.token,
            &new.url,
            &new.description,
            new.disabled,
            new.event_types.as_ref().map(to_json).transpose()?,
            new.secrets.current.expose_secret(),
            now.0,
        ))?;
    Ok(())
}

pub(crate) fn change(connection: &Connection, changed: &Subscription) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE subscription SET url = ?, description = ?, disabled = ?, event_types = ? WHERE token = ?",
        )?
        .execute((
            &changed.url,
            &changed.description,
            changed.disabled,
            changed.event_types.as_ref().map(to_json).transpose()?,
            &changed.token,
        ))?;
    Ok(())
}

pub(crate) fn subscription(connection: &Connection, token: &str) -> Result<Option<Subscription>, StoreError> {
    connection
        .prepare_cached(&format!("SELECT {SUBSCRIPTION} FROM subscription WHERE token = ?"))?
        .query_and_then([token], subscription_of)?
        .next()
        .transpose()
}

pub(crate) fn subscriptions(
    connection: &Connection,
    wanted: &Page,
) -> Result<Option<(Vec<Subscription>, bool)>, StoreError> {
    let Some((tokens, more)) = page::<String>(connection, "subscription", "json_quote(token)", Vec::new(), wanted)?
    else {
        return Ok(None);
    };
    let found = tokens.iter().filter_map(|token| subscription(connection, token).transpose());
    Ok(Some((found.collect::<Result<_, _>>()?, more)))
}

/// Whether there was one.
pub(crate) fn unsubscribe(connection: &Connection, token: &str) -> Result<bool, StoreError> {
    Ok(connection.prepare_cached("DELETE FROM subscription WHERE token = ?")?.execute([token])? > 0)
}

/// Rotates a secret; the old one keeps signing for a day.
pub(crate) fn rotate(connection: &Connection, token: &str, now: Time) -> Result<bool, StoreError> {
    let changed = connection
        .prepare_cached("UPDATE subscription SET old_secret = secret, old_until = ?, secret = ? WHERE token = ?")?
        .execute((now.after(OVERLAP).0, new_secret()?.expose_secret(), token))?;
    Ok(changed > 0)
}

/// Delivers one event to one subscription, again or for the first time. Whether both exist.
pub(crate) fn resend(connection: &Connection, event: &str, to: &str, now: Time) -> Result<bool, StoreError> {
    let changed = connection
        .prepare_cached(
            "INSERT INTO delivery (event, subscription, due)
             SELECT event.seq, subscription.seq, ? FROM event, subscription WHERE event.token = ? AND subscription.token = ?
             ON CONFLICT DO UPDATE SET due = excluded.due, attempts = 0",
        )?
        .execute((now.0, event, to))?;
    Ok(changed > 0)
}

/// Tries once more what was given up.
pub(crate) fn recover(connection: &Connection, to: &str, time_range: TimeRange, now: Time) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE delivery SET due = ?1, attempts = 0
             WHERE due IS NULL AND NOT delivered AND subscription = (SELECT seq FROM subscription WHERE token = ?2)
               AND event IN (SELECT seq FROM event WHERE created > ?3 AND created < ?4)",
        )?
        .execute((
            now.0,
            to,
            time_range.begin.map_or(i64::MIN, |at| at.0),
            time_range.end.map_or(i64::MAX, |at| at.0),
        ))?;
    Ok(())
}

/// Delivers what never was: from before the subscription, or while it was disabled.
pub(crate) fn replay_missing(
    connection: &Connection,
    to: &str,
    time_range: TimeRange,
    now: Time,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO delivery (event, subscription, due)
             SELECT event.seq, subscription.seq, ?1 FROM event, subscription
             WHERE subscription.token = ?2 AND event.created > ?3 AND event.created < ?4
               AND (event_types IS NULL OR event.type IN (SELECT value FROM json_each(event_types)))
             ON CONFLICT DO NOTHING",
        )?
        .execute((
            now.0,
            to,
            time_range.begin.map_or(i64::MIN, |at| at.0),
            time_range.end.map_or(i64::MAX, |at| at.0),
        ))?;
    Ok(())
}

/// What is due, and when the next one is that is not.
pub(crate) fn due(
    connection: &Connection,
    now: Time,
    newest_first: bool,
) -> Result<(Vec<Delivery>, Option<Time>), StoreError> {
    const BATCH: u32 = 256;
    let order = if newest_first { "DESC" } else { "ASC" };
    let query = format!(
        "SELECT delivery.event, delivery.subscription, attempts, event.token, payload, url, secret, old_secret, old_until
         FROM delivery JOIN event ON event.seq = delivery.event
         JOIN subscription ON subscription.seq = delivery.subscription
         WHERE due <= ? AND NOT disabled ORDER BY delivery.event {order} LIMIT {BATCH}"
    );
    let mut statement = connection.prepare_cached(&query)?;
    let due = statement.query_and_then([now.0], |row| {
        Ok(Delivery {
            event: row.get(0)?,
            subscription: row.get(1)?,
            attempts: row.get(2)?,
            id: row.get(3)?,
            payload: row.get(4)?,
            url: row.get(5)?,
            secrets: secrets(row, 6)?,
        })
    })?;
    let due = due.collect::<Result<_, StoreError>>()?;
    let next: Option<i64> = connection
        .prepare_cached("SELECT min(due) FROM delivery WHERE due > ?")?
        .query_row([now.0], |row| row.get(0))?;
    Ok((due, next.map(Time)))
}

/// Writes down how an attempt ended: delivered, or due again, or given up.
pub(crate) fn attempted(
    connection: &Connection,
    delivery: &Delivery,
    delivered: bool,
    due: Option<Time>,
) -> Result<(), StoreError> {
    // An attempt that was asked for while this one was on its way starts its own count: it stands.
    connection
        .prepare_cached(
            "UPDATE delivery SET attempts = ?1 + 1, delivered = max(delivered, ?2), due = ?3
             WHERE event = ?4 AND subscription = ?5 AND attempts = ?1",
        )?
        .execute((delivery.attempts, delivered, due.map(|due| due.0), delivery.event, delivery.subscription))?;
    Ok(())
}

/// Who answers the real-time question.
pub(crate) fn responder(connection: &Connection) -> Result<Option<String>, StoreError> {
    Ok(connection.query_row("SELECT url FROM responder", [], |row| row.get(0))?)
}

pub(crate) fn register_responder(connection: &Connection, url: Option<&str>) -> Result<(), StoreError> {
    connection.execute("UPDATE responder SET url = ?", [url])?;
    Ok(())
}

/// What signs the question, if its secret was ever fetched.
pub(crate) fn responder_secrets(connection: &Connection) -> Result<Option<SigningSecrets>, StoreError> {
    connection
        .prepare_cached("SELECT secret, old_secret, old_until FROM responder WHERE secret IS NOT NULL")?
        .query_and_then([], |row| secrets(row, 0))?
        .next()
        .transpose()
}

/// Rotates the responder's secret; the old one, if any, keeps signing for a day.
pub(crate) fn rotate_responder(connection: &Connection, now: Time) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE responder SET old_secret = secret, old_until = ?, secret = ?",
        (now.after(OVERLAP).0, new_secret()?.expose_secret()),
    )?;
    Ok(())
}
