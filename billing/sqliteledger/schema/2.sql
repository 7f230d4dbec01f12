-- Days are counted since 1970, UTC.

ALTER TABLE users ADD COLUMN source TEXT NOT NULL DEFAULT 'config'; -- or 'api'
ALTER TABLE users ADD COLUMN concurrency INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;

-- Kinds of credit, beside 'opening': 'added', the balance of an added user;
-- 'credit'; 'closing', what was taken from a removed user; 'pruned', one row for
-- each user with what records charged that were deleted.
ALTER TABLE credits ADD COLUMN note TEXT NOT NULL DEFAULT '';

CREATE TABLE keys (
	id            TEXT PRIMARY KEY,
	digest        BLOB NOT NULL UNIQUE,
	prefix        TEXT NOT NULL,
	user          TEXT NOT NULL,
	groups        TEXT NOT NULL, -- a JSON array
	models        TEXT NOT NULL, -- a JSON array
	daily_limit   INTEGER NOT NULL,
	weekly_limit  INTEGER NOT NULL,
	monthly_limit INTEGER NOT NULL,
	expires       INTEGER, -- NULL = never
	created       INTEGER, -- NULL = nobody said
	last_used     INTEGER -- NULL = never
) STRICT, WITHOUT ROWID;

CREATE TABLE subscriptions (
	user    TEXT NOT NULL,
	"group" TEXT NOT NULL,
	until   INTEGER, -- NULL = without end
	PRIMARY KEY (user, "group")
) STRICT, WITHOUT ROWID;

-- The windows of subscriptions, those that a config declares too, and of keys.
-- Starts and ends are in seconds since 1970.
CREATE TABLE windows (
	kind          TEXT NOT NULL, -- 'subscription' or 'key'
	name          TEXT NOT NULL, -- the user, or the key's id
	"group"       TEXT NOT NULL, -- '' for a key
	daily_start   INTEGER NOT NULL,
	daily_end     INTEGER NOT NULL,
	daily_used    INTEGER NOT NULL,
	weekly_start  INTEGER NOT NULL,
	weekly_end    INTEGER NOT NULL,
	weekly_used   INTEGER NOT NULL,
	monthly_start INTEGER NOT NULL,
	monthly_end   INTEGER NOT NULL,
	monthly_used  INTEGER NOT NULL,
	PRIMARY KEY (kind, name, "group")
) STRICT, WITHOUT ROWID;

-- Sums over the records of each day, UTC.
CREATE TABLE usage (
	day            INTEGER NOT NULL,
	user           TEXT NOT NULL,
	key_id         TEXT NOT NULL,
	account        TEXT NOT NULL,
	"group"        TEXT NOT NULL,
	model          TEXT NOT NULL,
	requests       INTEGER NOT NULL,
	input          INTEGER NOT NULL,
	output         INTEGER NOT NULL,
	cache_write_5m INTEGER NOT NULL,
	cache_write_1h INTEGER NOT NULL,
	cache_read     INTEGER NOT NULL,
	cost           INTEGER NOT NULL,
	charged        INTEGER NOT NULL,
	PRIMARY KEY (day, user, key_id, account, "group", model)
) STRICT, WITHOUT ROWID;

-- The same by user alone, which is asked for most: some tens of times fewer rows.
CREATE TABLE usage_by_user (
	day            INTEGER NOT NULL,
	user           TEXT NOT NULL,
	requests       INTEGER NOT NULL,
	input          INTEGER NOT NULL,
	output         INTEGER NOT NULL,
	cache_write_5m INTEGER NOT NULL,
	cache_write_1h INTEGER NOT NULL,
	cache_read     INTEGER NOT NULL,
	cost           INTEGER NOT NULL,
	charged        INTEGER NOT NULL,
	PRIMARY KEY (day, user)
) STRICT, WITHOUT ROWID;
