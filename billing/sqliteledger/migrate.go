package sqliteledger

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// schemaFiles are what each version of the schema adds to the one before.
//
//go:embed schema/*.sql
var schemaFiles embed.FS

// schemaVersion is kept in the database's user_version.
const schemaVersion = 3

// migrate makes the tables of a new database, brings those of an older program up
// to date, and refuses one from the future. A version is one transaction: a
// database has all of it or nothing.
func migrate(ctx context.Context, w *writer, now time.Time, log *slog.Logger) error {
	row, err := w.exec(ctx, "PRAGMA user_version")
	if err != nil {
		return err
	}
	version := row[0].(int64)
	switch {
	case version > schemaVersion:
		return fmt.Errorf("the database has schema version %d, this program knows up to %d: "+
			"use the newer program that wrote it", version, schemaVersion)
	case version > 0 && version < schemaVersion:
		log.Info("upgrading the ledger's database; a large one may take some minutes, and an interruption does no harm",
			"from_version", version, "to_version", schemaVersion)
		defer func(start time.Time) {
			if err == nil {
				log.Info("upgraded the ledger's database", "version", schemaVersion, "seconds", time.Since(start).Seconds())
			}
		}(time.Now())
	}
	for next := version + 1; next <= schemaVersion; next++ {
		if err = upgrade(ctx, w, next, now, log); err != nil {
			return fmt.Errorf("bringing the tables from schema version %d to %d; they are as they were: %w", next-1, next, err)
		}
	}
	return nil
}

// upgrade brings the tables to a version from the one before.
func upgrade(ctx context.Context, w *writer, version int64, now time.Time, log *slog.Logger) error {
	script, err := schemaFiles.ReadFile(fmt.Sprintf("schema/%d.sql", version))
	if err != nil {
		return err
	}
	return w.transaction(func() error {
		if _, err := w.exec(ctx, string(script)); err != nil {
			return err
		}
		switch version {
		case 2:
			err = sumUpRecords(ctx, w.conn, "", utcDays, math.MinInt64, log)
		case 3:
			_, err = w.exec(ctx, `INSERT INTO settling SELECT 1, ifnull(max(rowid), 0) + 1, iif(max(rowid) IS NULL, 0, ?), 0
				FROM records`, max(now.UnixNano(), 0))
		}
		if err != nil {
			return err
		}
		_, err = w.exec(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
		return err
	})
}

// sumUpRecords adds the records from a time on to the rollups, day after day, or takes
// them away with the sign "-".
func sumUpRecords(ctx context.Context, c conn, sign string, days calendar, from int64, log *slog.Logger) error {
	told := time.Now()
	for {
		row, err := c.exec(ctx, "SELECT min(time) FROM records WHERE time >= ?", from)
		if err != nil || row[0] == nil {
			return err
		}
		first := row[0].(int64)
		day := days.dayOf(first)
		last := days.end(day)
		for _, table := range []rollup{usageTable, byUserTable} {
			if _, err := c.exec(ctx, table.sumUp(sign, "?3 AND time BETWEEN ?1 AND ?2"), first, last, true, day); err != nil {
				return err
			}
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			log.Info("summing up the records of the ledger's database", "up_to", billing.DayText(day))
		}
		if last == math.MaxInt64 {
			return nil
		}
		from = last + 1
	}
}
