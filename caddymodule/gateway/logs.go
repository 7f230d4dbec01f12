package gateway

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/sub2api/caddy-sub2api/billing"
)

// currentLogger is a slog.Handler that writes to the logger of the config that
// runs now: a runtime outlives the loggers of its configs.
type currentLogger struct{ logger atomic.Pointer[slog.Logger] }

func (c *currentLogger) Set(logger *slog.Logger) { c.logger.Store(logger) }

func (c *currentLogger) get() slog.Handler {
	if logger := c.logger.Load(); logger != nil {
		return logger.Handler()
	}
	return slog.Default().Handler()
}

// Enabled implements slog.Handler.
func (c *currentLogger) Enabled(ctx context.Context, level slog.Level) bool {
	return c.get().Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (c *currentLogger) Handle(ctx context.Context, record slog.Record) error {
	return c.get().Handle(ctx, record)
}

// WithAttrs implements slog.Handler. What it returns stays with the logger of
// today, so that it is for short use only.
func (c *currentLogger) WithAttrs(attrs []slog.Attr) slog.Handler { return c.get().WithAttrs(attrs) }

// WithGroup implements slog.Handler; see WithAttrs.
func (c *currentLogger) WithGroup(name string) slog.Handler { return c.get().WithGroup(name) }

// maxWarned bounds what is remembered of clients' words.
const maxWarned = 1000

// warnedModels warns of each model without a price of its own once.
type warnedModels struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (w *warnedModels) warn(logger *slog.Logger, model string, match billing.Match) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[model] || len(w.seen) >= maxWarned {
		return
	}
	if w.seen == nil {
		w.seen = make(map[string]bool)
	}
	w.seen[model] = true
	what := "it costs what the dearest model of its family costs"
	if match == billing.MatchNone {
		what = "it costs nothing"
	}
	logger.Warn("a model is not in the price table", "model", shorten(model), "so", what)
}
