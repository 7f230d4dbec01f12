-- Money is in nano-dollars, times in nanoseconds since 1970 UTC, rates in
-- billionths. The columns of records are the fields of billing.Record.

CREATE TABLE users (
	name      TEXT PRIMARY KEY,
	balance   INTEGER NOT NULL,
	unlimited INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What was put on a balance, each once. For every user:
-- sum(amount) - sum(records.charged where billing = 'balance') = users.balance
CREATE TABLE credits (
	user   TEXT NOT NULL,
	kind   TEXT NOT NULL, -- 'opening': the balance that the config declares
	id     TEXT NOT NULL,
	time   INTEGER NOT NULL,
	amount INTEGER NOT NULL,
	PRIMARY KEY (user, kind, id)
) STRICT, WITHOUT ROWID;

-- A rowid table: rows are appended, whatever the ids look like.
CREATE TABLE records (
	id                  TEXT NOT NULL UNIQUE,
	time                INTEGER NOT NULL,
	user                TEXT NOT NULL,
	key_id              TEXT NOT NULL,
	account             TEXT NOT NULL,
	"group"             TEXT NOT NULL,
	platform            TEXT NOT NULL,
	model               TEXT NOT NULL,
	model_sent          TEXT NOT NULL,
	session             TEXT NOT NULL,
	stream              INTEGER NOT NULL,
	status              INTEGER NOT NULL,
	input               INTEGER NOT NULL,
	output              INTEGER NOT NULL,
	cache_write_5m      INTEGER NOT NULL,
	cache_write_1h      INTEGER NOT NULL,
	cache_read          INTEGER NOT NULL,
	web_searches        INTEGER NOT NULL,
	input_cost          INTEGER NOT NULL,
	output_cost         INTEGER NOT NULL,
	cache_write_cost    INTEGER NOT NULL,
	cache_read_cost     INTEGER NOT NULL,
	web_search_cost     INTEGER NOT NULL,
	cost                INTEGER NOT NULL,
	rate_multiplier     INTEGER NOT NULL,
	charged             INTEGER NOT NULL,
	billing             TEXT NOT NULL,
	duration_ms         INTEGER NOT NULL,
	ttft_ms             INTEGER NOT NULL,
	attempts            INTEGER NOT NULL,
	upstream_request_id TEXT NOT NULL,
	estimated           INTEGER NOT NULL,
	unpriced            INTEGER NOT NULL
) STRICT;

CREATE INDEX records_time ON records (time);
CREATE INDEX records_user_time ON records (user, time);
