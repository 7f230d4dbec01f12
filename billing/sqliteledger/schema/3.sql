-- Those who have a name one after the other have numbers, from 1 on. A row of users
-- with removed = 1 has the number of who will have the name next.
ALTER TABLE users ADD COLUMN number INTEGER NOT NULL DEFAULT 1;
UPDATE users SET number = 2 WHERE removed = 1;

-- The IDs of credits are those of one number. 'pruned' is of all who had the name, and
-- has the number 0. 'closing' with no id is what records charged that were settled
-- when their user had been removed.
CREATE TABLE credits_of_numbers (
	user   TEXT NOT NULL,
	number INTEGER NOT NULL,
	kind   TEXT NOT NULL,
	id     TEXT NOT NULL,
	time   INTEGER NOT NULL,
	amount INTEGER NOT NULL,
	note   TEXT NOT NULL DEFAULT '',
	PRIMARY KEY (user, number, kind, id)
) STRICT, WITHOUT ROWID;
INSERT INTO credits_of_numbers SELECT user, iif(kind = 'pruned', 0, 1), kind, id, time, amount, note FROM credits;
DROP TABLE credits;
ALTER TABLE credits_of_numbers RENAME TO credits;
INSERT INTO credits (user, number, kind, id, time, amount)
	SELECT name, 1, 'closing', '', 0, -balance FROM users WHERE removed = 1 AND balance <> 0;
UPDATE users SET balance = 0 WHERE removed = 1;

-- users.unlimited has no meaning any more.

-- Columns of records, for which ALTER TABLE would read the whole table, since it is
-- STRICT. Rows of before have the values by default: settled = 0 is the lesser of time
-- and settling.begun. After them, settled grows with rowid.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = substr(sql, 1, length(sql) - length(') STRICT') - 1) || ',
	user_number         INTEGER NOT NULL DEFAULT 0,
	settled             INTEGER NOT NULL DEFAULT 0
) STRICT' WHERE type = 'table' AND name = 'records';
PRAGMA writable_schema = RESET;

CREATE TABLE settling (
	only   INTEGER PRIMARY KEY CHECK (only = 1),
	first  INTEGER NOT NULL, -- the first rowid whose row has its own value of settled
	begun  INTEGER NOT NULL, -- when that was
	sealed INTEGER NOT NULL  -- no record is settled before it any more: it was exported up to there
) STRICT;

-- The days of usage and usage_by_user are those of a zone, from an instant on, which
-- the first one has had for ever: UTC up to here.
CREATE TABLE calendar (
	start INTEGER PRIMARY KEY,
	zone  TEXT NOT NULL
) STRICT;
INSERT INTO calendar VALUES (-9223372036854775808, 'UTC');
