package redisledger

import (
	"context"
	"errors"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

const (
	// retryAfter is how long after a failure Redis is asked again whether it
	// takes what waits.
	retryAfter = 250 * time.Millisecond
	// adoptEvery is how often the spool is searched for what processes left that
	// have ended.
	adoptEvery = time.Minute
	// tendEvery is how often Redis is asked what other processes have changed.
	tendEvery = time.Second
)

// loop brings the spool's records to Redis, and finds out when it is back, until
// Close.
func (l *Ledger) loop() {
	adopt := time.NewTicker(adoptEvery)
	defer adopt.Stop()
	retry := time.NewTimer(adoptEvery) // of what Redis refused
	defer retry.Stop()
	l.adopt()
	for {
		for !l.recovered(l.ctx) {
			select {
			case <-time.After(retryAfter):
			case <-l.ctx.Done():
				return
			}
		}
		if l.spool != nil {
			if wait, isAny := l.spool.untilRetry(); isAny {
				retry.Reset(wait)
			}
		}
		select {
		case <-l.wake:
		case <-retry.C:
		case <-adopt.C:
			l.adopt()
		case <-l.ctx.Done():
			return
		}
	}
}

// adopt opens the spool, and what other processes left in it.
func (l *Ledger) adopt() {
	if l.spool == nil {
		return
	}
	if err := l.spool.adopt(); err != nil && !errors.Is(err, billing.ErrClosed) {
		l.log.Error("the spool can't be used: while Redis fails too, no answer can be completed", "spool", l.spool.dir, "error", err)
	}
}

// recovered tells whether Redis answers and has all records.
func (l *Ledger) recovered(ctx context.Context) bool {
	if l.down.Load() {
		bounded, cancel := context.WithTimeout(ctx, l.timeout)
		err := l.client.Exists(bounded, l.daysKey()).Err()
		cancel()
		if err != nil {
			return false
		}
		l.upSince.Store(time.Now().UnixNano())
		l.down.Store(false)
		l.renewNow.Store(true)
	}
	if l.spool != nil {
		if err := l.drain(ctx); err != nil {
			if ctx.Err() == nil {
				l.complain(err)
			}
			return false
		}
	}
	if l.complained.Swap(false) {
		l.log.Info("Redis serves the ledger again, and has all records")
	}
	return true
}

// tend takes account of what other processes change, and keeps money set aside for
// as long as it is needed, until Close.
func (l *Ledger) tend() {
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	renewed, complaint := time.Now(), ""
	for {
		select {
		case <-ticker.C:
		case <-l.ctx.Done():
			return
		}
		if l.down.Load() {
			continue
		}
		err := errors.Join(l.readChanges(l.ctx), l.endHolds(l.ctx, l.holds.debts()))
		if l.renewNow.Swap(false) || time.Since(renewed) >= renewEvery {
			now := time.Now()
			if renewErr := l.renew(l.ctx); renewErr != nil {
				err = errors.Join(err, renewErr)
				l.renewNow.Store(true) // in a second
			} else {
				renewed = now
			}
		}
		if l.down.Load() || l.ctx.Err() != nil {
			continue // which is told of, or no failure
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != complaint && text != "" {
			l.log.Warn("Redis does not tell what other processes have changed, or does not keep money set aside", "error", err)
		}
		complaint = text
	}
}
