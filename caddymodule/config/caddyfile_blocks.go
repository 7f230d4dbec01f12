package config

import (
	"errors"
	"fmt"
)

const platformUsage = "anthropic|gemini|openai|antigravity"

// words are those of the sub2api block.
func (h *Config) words(p *parser) map[string]word {
	return map[string]word{
		"mode":           oneText(&h.Mode, "standard|simple"),
		"encryption_key": oneText(&h.EncryptionKey, "<secret>"),
		"store":          {usage: storeUsage, min: 1, max: -1, open: h.openStore(p)},
		"account":        namedBlock(h.openAccount(p)),
		"group":          namedBlock(h.openGroup(p)),
		"user":           namedBlock(h.openUser(p)),
		"scheduling":     sectionBlock(p, &h.Scheduling, (*Scheduling).words),
		"retry":          sectionBlock(p, &h.Retry, (*Retry).words),
		"request":        sectionBlock(p, &h.Request, (*Request).words),
		"relay":          sectionBlock(p, &h.Relay, (*Relay).words),
		"billing":        sectionBlock(p, &h.Billing, (*Billing).words),
	}
}

func (h *Config) openAccount(p *parser) opener {
	return func(path string, args []string) error {
		a := Account{Name: args[0]}
		err := p.block(path, "account "+a.Name, map[string]word{
			"platform":    oneText(&a.Platform, platformUsage),
			"api_key":     oneText(&a.APIKey, "<secret>"),
			"setup_token": oneText(&a.SetupToken, "<secret>"),
			"oauth":       sectionBlock(p, &a.OAuth, (*OAuth).words),
			"base_url":    oneText(&a.BaseURL, "<url>"),
			"proxy":       oneText(&a.Proxy, "<url>"),
			"priority":    oneValue(&a.Priority, "<number>", optional(parseNumber)),
			"concurrency": oneValue(&a.Concurrency, "<number>", parseNumber),
			"models":      {usage: "{ <model|prefix*> [<upstream model>] … }", open: a.openModels(p)},
			"error_codes": {usage: "<status…>", min: 1, max: -1, read: a.readErrorCodes},
			"header": {usage: "<name> <value>", min: 2, max: 2, repeat: true, read: func(args []string) error {
				a.Header = append(a.Header, HeaderField{Name: args[0], Value: args[1]})
				return nil
			}},
			"disabled":         flagWord(&a.Disabled),
			"mixed_scheduling": flagWord(&a.MixedScheduling),
			"account_uuid":     oneText(&a.AccountUUID, "<uuid>"),
		})
		h.Accounts = append(h.Accounts, a)
		return err
	}
}

func (o *OAuth) words() map[string]word {
	return map[string]word{
		"access_token":  oneText(&o.AccessToken, "<secret>"),
		"refresh_token": oneText(&o.RefreshToken, "<secret>"),
		"expires_at":    oneText(&o.ExpiresAt, "<RFC 3339 time|unix seconds>"),
		"token_url":     oneText(&o.TokenURL, "<url>"),
		"client_id":     oneText(&o.ClientID, "<id>"),
		"client_secret": oneText(&o.ClientSecret, "<secret>"),
	}
}

// openModels reads lines that begin with a model instead of a fixed word.
func (a *Account) openModels(p *parser) opener {
	return func(path string, _ []string) error {
		err := p.lines(func(first string) error {
			p.seen[p.nth(path)] = p.d.Token()
			rule := ModelRule{Match: first}
			if p.d.NextArg() {
				rule.Upstream = p.d.Val()
			}
			if p.d.NextArg() || p.atBlock() {
				return p.d.Errf("account %s: models: too many words after %q; write: <model|prefix*> [<upstream model>]", a.Name, first)
			}
			a.Models = append(a.Models, rule)
			return nil
		})
		if err == nil && len(a.Models) == 0 {
			err = p.d.Errf("account %s: models: the block is empty; name the models, or leave it out to serve every model", a.Name)
		}
		return err
	}
}

func (a *Account) readErrorCodes(args []string) error {
	for _, arg := range args {
		code, err := parseNumber(arg)
		if err != nil {
			return err
		}
		a.ErrorCodes = append(a.ErrorCodes, code)
	}
	return nil
}

func (h *Config) openGroup(p *parser) opener {
	return func(path string, args []string) error {
		g := Group{Name: args[0]}
		err := p.block(path, "group "+g.Name, map[string]word{
			"platform":        oneText(&g.Platform, platformUsage),
			"accounts":        manyTexts(&g.Accounts, "<account…>"),
			"rate_multiplier": oneValue(&g.RateMultiplier, "<number>", optional(parseRate)),
			"limits":          sectionBlock(p, &g.Limits, (*Limits).words),
		})
		h.Groups = append(h.Groups, g)
		return err
	}
}

func (h *Config) openUser(p *parser) opener {
	return func(path string, args []string) error {
		u := User{Name: args[0]}
		err := p.block(path, "user "+u.Name, map[string]word{
			"balance":     oneText(&u.Balance, "<dollars>|unlimited"),
			"concurrency": oneValue(&u.Concurrency, "<number>", optional(parseNumber)),
			"key": {usage: "<secret>|sha256:<digest> [<group…>]", min: 1, max: -1, repeat: true, read: func(args []string) error {
				u.Keys = append(u.Keys, Key{Key: args[0], Groups: args[1:]})
				return nil
			}},
			"subscribe": {usage: "<group> [until <time>]", min: 1, max: 3, repeat: true, read: u.readSubscribe},
		})
		h.Users = append(h.Users, u)
		return err
	}
}

func (u *User) readSubscribe(args []string) error {
	s := Subscribe{Group: args[0]}
	switch {
	case len(args) > 1 && args[1] != "until":
		return errors.New("only `until` may follow the group")
	case len(args) == 2:
		return errors.New("the time of `until` is missing")
	case len(args) == 3:
		s.Until = args[2]
	}
	u.Subscriptions = append(u.Subscriptions, s)
	return nil
}

func (l *Limits) words() map[string]word {
	return map[string]word{
		"daily":   oneText(&l.Daily, "<dollars>"),
		"weekly":  oneText(&l.Weekly, "<dollars>"),
		"monthly": oneText(&l.Monthly, "<dollars>"),
	}
}

func (s *Scheduling) words() map[string]word {
	return map[string]word{
		"sticky_ttl":            oneValue(&s.StickyTTL, "<duration>", optional(parseDuration)),
		"sticky_max_waiting":    oneValue(&s.StickyMaxWaiting, "<number>", optional(parseNumber)),
		"sticky_wait_timeout":   oneValue(&s.StickyWaitTimeout, "<duration>", optional(parseDuration)),
		"fallback_max_waiting":  oneValue(&s.FallbackMaxWaiting, "<number>", optional(parseNumber)),
		"fallback_wait_timeout": oneValue(&s.FallbackWaitTimeout, "<duration>", optional(parseDuration)),
		"user_extra_waiting":    oneValue(&s.UserExtraWaiting, "<number>", optional(parseNumber)),
		"user_wait_timeout":     oneValue(&s.UserWaitTimeout, "<duration>", optional(parseDuration)),
		"load_aware":            oneValue(&s.LoadAware, "on|off", optional(parseOnOff)),
		"content_session":       oneText(&s.ContentSession, "conversation|cacheable"),
		"overload_cooldown":     oneValue(&s.OverloadCooldown, "<duration>", optional(parseDuration)),
		"rate_limit_cooldown":   oneValue(&s.RateLimitCooldown, "<duration>", optional(parseDuration)),
		"error_retry":           oneValue(&s.ErrorRetry, "0|<duration>", optional(parseDuration)),
	}
}

func (r *Retry) words() map[string]word {
	return map[string]word{
		"attempts":        oneValue(&r.Attempts, "<number>", optional(parseNumber)),
		"delay":           oneValue(&r.Delay, "<duration>", optional(parseDuration)),
		"max_switches":    oneValue(&r.MaxSwitches, "<number>", optional(parseNumber)),
		"failover_on_400": oneValue(&r.FailoverOn400, "on|off", parseOnOff),
	}
}

func (r *Request) words() map[string]word {
	allowHeader := manyTexts(&r.AllowHeader, "<name|prefix*…>")
	allowHeader.each = true
	return map[string]word{
		"max_body":            oneValue(&r.MaxBody, "<size>", optional(parseSize)),
		"identity":            oneValue(&r.Identity, "on|off", parseOnOff),
		"log_upstream_errors": oneValue(&r.LogUpstreamErrors, "on|off|<size>", parseLogSize),
		"inject_system":       oneText(&r.InjectSystem, "off|oauth|all"),
		"thinking_blocks":     oneText(&r.ThinkingBlocks, "keep|strip|retry"),
		"inject_beta":         oneValue(&r.InjectBeta, "on|off", parseOnOff),
		"allow_header":        allowHeader,
		"wrong_key_limit":     oneValue(&r.WrongKeyLimit, "<number>", optional(parseNumber)),
		"unserved":            oneText(&r.Unserved, "404|next"),
	}
}

func (r *Relay) words() map[string]word {
	return map[string]word{
		"header_timeout":      oneValue(&r.HeaderTimeout, "<duration>", optional(parseDuration)),
		"answer_timeout":      oneValue(&r.AnswerTimeout, "<duration>", optional(parseDuration)),
		"stream_timeout":      oneValue(&r.StreamTimeout, "0|<duration>", optional(parseDuration)),
		"first_event_timeout": oneValue(&r.FirstEventTimeout, "<duration>", optional(parseDuration)),
		"idle_timeout":        oneValue(&r.IdleTimeout, "<duration>", optional(parseDuration)),
		"on_disconnect":       {usage: "cancel|drain <duration>", min: 1, max: 2, read: r.readOnDisconnect},
		"keepalive":           {usage: "0|<duration> [after <duration>]", min: 1, max: 3, read: r.readKeepalive},
	}
}

func (r *Relay) readOnDisconnect(args []string) error {
	r.OnDisconnect = &OnDisconnect{}
	switch {
	case args[0] == "cancel" && len(args) == 1:
		return nil
	case args[0] == "cancel":
		return errors.New("nothing follows `cancel`")
	case args[0] != "drain":
		return fmt.Errorf("%q is neither cancel nor drain", args[0])
	case len(args) == 1:
		return errors.New("the duration of `drain` is missing")
	}
	drain, err := parseDuration(args[1])
	if err == nil && drain <= 0 {
		err = errors.New("the duration of `drain` must be over 0s; or write: cancel")
	}
	r.OnDisconnect.Drain = drain
	return err
}

func (r *Relay) readKeepalive(args []string) error {
	interval, err := parseDuration(args[0])
	if err != nil {
		return err
	}
	r.Keepalive = &Keepalive{Interval: &interval}
	switch {
	case len(args) == 1:
		return nil
	case args[1] != "after":
		return errors.New("only `after` may follow the duration")
	case len(args) == 2:
		return errors.New("the duration of `after` is missing")
	}
	after, err := parseDuration(args[2])
	r.Keepalive.After = &after
	return err
}

func (b *Billing) words() map[string]word {
	return map[string]word{
		"rate_multiplier": oneValue(&b.RateMultiplier, "<number>", optional(parseRate)),
		"prices":          oneText(&b.Prices, "<file>"),
		"hold":            oneText(&b.Hold, "off|estimate|max"),
		"durability":      oneText(&b.Durability, "process|power"),
		"timezone":        oneText(&b.Timezone, "<name>"),
		"retention":       oneValue(&b.Retention, "0|<duration>", optional(parseDuration)),
	}
}
