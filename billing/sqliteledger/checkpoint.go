package sqliteledger

import "context"

const (
	// checkpointPages is after how many written pages the WAL is copied into
	// the database; SQLite's own default.
	checkpointPages = 1000
	// walLimit is the size of the WAL, in pages, from which on the writer is
	// made to wait until it starts from the front again: 64 MiB.
	walLimit = 16384
)

func (w *writer) checkpointDue() bool {
	if w.pages < checkpointPages {
		return false
	}
	w.pages = 0
	return true
}

// checkpointLoop copies the WAL into the database on a connection of its own,
// so that no charge waits for the disk.
func (l *Ledger) checkpointLoop() {
	for range l.checkpointDue {
		size, err := l.checkpoint("PASSIVE")
		if err == nil && size > walLimit {
			// Under steady load the copying never catches up with the writer,
			// and the WAL would grow for ever. Only the rest is left to copy.
			l.writing.Lock()
			_, err = l.checkpoint("RESTART")
			l.writing.Unlock()
		}
		if err != nil {
			l.log.Warn("copying the ledger's WAL into its database failed; charges are safe in the WAL",
				"directory", l.dir, "error", err)
		}
	}
}

// checkpoint gives the size of the WAL in pages.
func (l *Ledger) checkpoint(mode string) (int64, error) {
	row, err := l.checkpoints.exec(context.Background(), "PRAGMA wal_checkpoint("+mode+")")
	if err != nil {
		return 0, err
	}
	return row[1].(int64), nil
}
