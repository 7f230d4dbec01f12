package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/tidwall/sjson"

	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
	"github.com/sub2api/caddy-sub2api/upstream/oauth"
)

const (
	// questionWait is how long a question waits for a slot, and questionTimeout how
	// long for its answer: it keeps a slot from a user's request for that long.
	questionWait    = 5 * time.Second
	questionTimeout = 8 * time.Second
	// errorLook is how often accounts in error are looked at.
	errorLook = 5 * time.Second
)

// questions are those that the gateway asks accounts itself, to find out whether
// one is in error: no user's request may decide that, for a user can make
// upstream say nearly anything. They are logged, and no user pays for them.
type questions struct {
	rt *Runtime

	mu     sync.Mutex
	asking map[string]bool   // accounts that are asked now
	models map[string]string // the model of each account's last success
	asked  int               // questions so far
}

// answered takes note of a model that an account has answered for.
func (q *questions) answered(account, model string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.models[account] != model {
		if q.models == nil {
			q.models = map[string]string{}
		}
		q.models[account] = model
	}
}

// served is the model of the account's last success here; "" = none is known.
func (q *questions) served(account string) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.models[account]
}

// ask asks an account in the background, unless that is under way, or was done
// less than 30 s ago. failed is the model that a request failed for.
func (q *questions) ask(g *Gateway, account *upstream.Account, failed string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.asking[account.Name] || q.rt.Context.Err() != nil {
		return
	}
	if q.asking == nil {
		q.asking = map[string]bool{}
	}
	q.asking[account.Name] = true
	q.rt.background.Go(func() {
		q.askNow(g, account, failed)
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.asking, account.Name)
	})
}

// lookAfterErrors asks the accounts in error again whose time has come, until ctx
// ends.
func (q *questions) lookAfterErrors(ctx context.Context) {
	ticker := time.NewTicker(errorLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, g := range q.rt.Watched() {
			if g.Config.Scheduler.ErrorRetry == 0 {
				continue
			}
			for _, account := range g.Config.Accounts {
				accountState := q.rt.State.AccountState(scheduler.AccountPlace(account.Name))
				if accountState.Error != "" && !account.Disabled && !q.rt.State.Now().Before(accountState.ErrorNext) {
					q.ask(g, account, "")
				}
			}
		}
	}
}

func (q *questions) askNow(g *Gateway, account *upstream.Account, failed string) {
	bounded, cancel := context.WithTimeout(q.rt.Context, questionWait+questionTimeout+settleTimeout)
	defer cancel()
	may, err := g.Scheduler.MayAsk(bounded, account.Name)
	if err != nil || !may {
		q.logError(g, account, err)
		return
	}
	id := newRequestID()
	lease, err := g.Scheduler.PickForQuestion(bounded, id, account, questionWait)
	if err != nil {
		q.logError(g, account, err)
		return
	}
	defer lease.Release()
	model := q.modelFor(account, failed)
	began := time.Now()
	ctx, stop := context.WithTimeoutCause(bounded, questionTimeout, &timeout{what: "no answer", option: "fixed", after: questionTimeout, silence: true})
	failure := q.put(ctx, g, account, model)
	stop()
	q.mu.Lock()
	q.asked++
	number := q.asked
	q.mu.Unlock()
	g.logger.Info("the gateway asked an account itself", "account", account.Name, "request_id", id, "model", model,
		"took", time.Since(began), "question", number, "failure", failureText(failure))
	q.logError(g, account, q.conclude(bounded, g, account, model, began, failure))
}

// conclude applies what came of a question.
func (q *questions) conclude(ctx context.Context, g *Gateway, account *upstream.Account, model string, sent time.Time, f *upstream.Failure) error {
	name := account.Name
	if f == nil {
		q.answered(name, model)
		_, err := g.Scheduler.Report(ctx, name, scheduler.Outcome{
			Kind: scheduler.Success, Status: http.StatusOK, Model: model, Sent: sent, Served: model,
		})
		return err
	}
	var refused *oauth.RefusedError
	if errors.As(f, &refused) {
		return nil // the account is in error already: see runtime.refused
	}
	outcome := outcomeOf(f)
	outcome.Model, outcome.Sent = model, sent
	if outcome.Kind == scheduler.Denied && g.Scheduler.Counts(name, &outcome) {
		return g.Scheduler.Fail(ctx, name, "it answers the gateway's own question so too: "+f.Error(), false)
	}
	if outcome.Kind != 0 {
		if _, err := g.Scheduler.Report(ctx, name, outcome); err != nil {
			return err
		}
	}
	return g.Scheduler.Postpone(ctx, name)
}

func (q *questions) logError(g *Gateway, account *upstream.Account, err error) {
	if err != nil && q.rt.Context.Err() == nil {
		g.logger.LogAttrs(context.Background(), slog.LevelWarn, "an account could not be asked whether it is in error; it is tried again",
			slog.String("account", account.Name), slog.Any("error", err))
	}
}

func failureText(f *upstream.Failure) string {
	if f == nil {
		return ""
	}
	return f.Error()
}

// modelFor is the model to ask for: that of the account's last success, else the
// one that failed, else any that the account serves.
func (q *questions) modelFor(account *upstream.Account, failed string) string {
	accountState := q.rt.State.AccountState(scheduler.AccountPlace(account.Name))
	for _, model := range []string{q.served(account.Name), accountState.Served, failed} {
		if model != "" && account.Serves(model) {
			return model
		}
	}
	if names := account.Models.Names(); len(names) > 0 {
		return names[0]
	}
	return anthropic.BuiltInModels[0]
}

// put puts the question: one token. nil means that the account answers.
func (q *questions) put(ctx context.Context, g *Gateway, account *upstream.Account, model string) *upstream.Failure {
	secret, err := account.Secret, error(nil)
	if account.Refresh != nil {
		if secret, err = q.token(ctx, account); err != nil {
			return &upstream.Failure{Err: err}
		}
	}
	f := q.send(ctx, g, account, model, secret)
	if f == nil || f.Kind != upstream.Unauthorized || account.Refresh == nil {
		return f
	}
	if secret, err = q.rt.tokens.Refresh(ctx, account, secret); err != nil {
		return &upstream.Failure{Err: err}
	}
	return q.send(ctx, g, account, model, secret)
}

// token is the account's access token; a fresh one where it was the refresh token
// that was refused.
func (q *questions) token(ctx context.Context, account *upstream.Account) (string, error) {
	secret, err := q.rt.tokens.Access(ctx, account)
	accountState := q.rt.State.AccountState(scheduler.AccountPlace(account.Name))
	if err != nil || !accountState.ByRefresh {
		return secret, err
	}
	return q.rt.tokens.Refresh(ctx, account, secret)
}

func (q *questions) send(ctx context.Context, g *Gateway, account *upstream.Account, model, secret string) *upstream.Failure {
	body := []byte(`{"model":"","max_tokens":1,"messages":[{"role":"user","content":"Hi"}]}`)
	body, _ = sjson.SetBytes(body, "model", model) // the path exists
	request, err := anthropic.ParseRequest(body)
	if err != nil {
		return &upstream.Failure{Err: err}
	}
	call := &anthropic.Call{Path: "/v1/messages", Header: http.Header{}, Request: request}
	options := anthropic.Options{
		InjectSystem: g.Config.InjectSystem == InjectSystemAll || g.Config.InjectSystem == InjectSystemOAuth && account.Bearer(),
	}
	f := q.exchange(ctx, account, model, anthropic.Prepare(ctx, call, account, secret, options))
	if f != nil {
		f.Conceal(secret)
	}
	return f
}

// exchange sends the question and looks at the answer.
func (q *questions) exchange(ctx context.Context, account *upstream.Account, model string, r *http.Request) *upstream.Failure {
	response, err := q.rt.transports.For(account).RoundTrip(r)
	if err != nil {
		return unreachable(ctx, err)
	}
	defer response.Body.Close()
	var answer []byte
	from, err := bodyOf(response)
	if err == nil {
		answer, err = io.ReadAll(io.LimitReader(from, maxErrorBody))
	}
	switch {
	case response.StatusCode/100 != 2:
		return anthropic.ReadFailure(response.StatusCode, response.Header, answer, anthropic.Asked{Model: model}, time.Now())
	case err != nil:
		return unreachable(ctx, err)
	}
	return notAMessage(answer)
}
