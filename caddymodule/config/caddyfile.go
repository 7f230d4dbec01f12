package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	sub2api [<matcher>] {
//	    mode  standard|simple
//	    encryption_key <secret>
//	    store embedded [<dir>]
//	    store redis <url...> {        # instead
//	        namespace          <name>
//	        on_outage          serve|refuse
//	        sentinel           <master name>
//	        username           <name>
//	        password           <secret>
//	        ca                 <file>
//	        client_certificate <certificate file> <key file>
//	        timeout            <duration>
//	        spool              <dir>
//	    }
//
//	    account <name> {
//	        platform    anthropic|gemini|openai|antigravity
//	        api_key     <secret>      # exactly one of these three
//	        setup_token <secret>
//	        oauth {
//	            access_token  <secret>
//	            refresh_token <secret>
//	            expires_at    <time>
//	            token_url     <url>
//	            client_id     <id>
//	            client_secret <secret>
//	        }
//	        base_url    <url>
//	        proxy       <url>
//	        priority    <number>
//	        concurrency <number>
//	        models {
//	            <model|prefix*> [<upstream model>]
//	        }
//	        error_codes <status...>
//	        header      <name> <value>
//	        disabled
//	        account_uuid <uuid>
//	        mixed_scheduling
//	    }
//	    group <name> {
//	        platform        anthropic|gemini|openai|antigravity
//	        accounts        <account...>
//	        rate_multiplier <number>
//	        limits {                  # at least one
//	            daily   <dollars>
//	            weekly  <dollars>
//	            monthly <dollars>
//	        }
//	    }
//	    user <name> {
//	        balance     <dollars>|unlimited
//	        concurrency <number>
//	        key         <secret>|sha256:<digest> [<group...>]
//	        subscribe   <group> [until <time>]
//	    }
//
//	    scheduling {
//	        sticky_ttl            <duration>
//	        sticky_max_waiting    <number>
//	        sticky_wait_timeout   <duration>
//	        fallback_max_waiting  <number>
//	        fallback_wait_timeout <duration>
//	        user_extra_waiting    <number>
//	        user_wait_timeout     <duration>
//	        load_aware            on|off
//	        content_session       conversation|cacheable
//	        overload_cooldown     <duration>
//	        rate_limit_cooldown   <duration>
//	        error_retry           0|<duration>
//	    }
//	    retry {
//	        attempts        <number>
//	        delay           <duration>
//	        max_switches    <number>
//	        failover_on_400 on|off
//	    }
//	    request {
//	        max_body            <size>
//	        inject_system       off|oauth|all
//	        thinking_blocks     keep|strip|retry
//	        inject_beta         on|off
//	        identity            on|off
//	        allow_header        <name|prefix*...>
//	        log_upstream_errors on|off|<size>
//	        wrong_key_limit     <number>
//	        unserved            404|next
//	    }
//	    relay {
//	        header_timeout      <duration>
//	        answer_timeout      <duration>
//	        stream_timeout      0|<duration>
//	        first_event_timeout <duration>
//	        idle_timeout        <duration>
//	        keepalive           0|<duration> [after <duration>]
//	        on_disconnect       cancel|drain <duration>
//	    }
//	    billing {
//	        prices          <file>
//	        rate_multiplier <number>
//	        hold            off|estimate|max
//	        durability      process|power
//	        timezone        <name>
//	        retention       0|<duration>
//	    }
//	}
//
// account, group, user, header, key, subscribe and allow_header may be repeated; every
// other word stands at most once in its block.
func (h *Config) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	_, err := h.parse(d)
	return err
}

// UnmarshalSite is UnmarshalCaddyfile, and returns what the handler says of its store,
// for the sites that follow in the file. It is an error if one of those before says
// something else.
func (h *Config) UnmarshalSite(d *caddyfile.Dispenser, before []*Site) (*Site, error) {
	p, err := h.parse(d)
	if err != nil {
		return nil, err
	}
	written, err := h.writtenSite(p.place)
	if err != nil {
		return nil, err
	}
	for _, other := range before {
		if err := written.Contradicts(other); err != nil {
			return nil, p.locate(err)
		}
	}
	return written, nil
}

// parse reads the directive, and returns the parser, which knows the lines.
func (h *Config) parse(d *caddyfile.Dispenser) (*parser, error) {
	p := &parser{d: d, seen: map[string]caddyfile.Token{}, count: map[string]int{}}
	if !d.Next() {
		return nil, d.Err("sub2api: the directive is missing")
	}
	p.seen[""] = d.Token()
	if d.NextArg() {
		return nil, d.Errf("sub2api: unexpected argument %q; everything but a matcher goes into the block", d.Val())
	}
	nesting := d.Nesting()
	if err := p.block("", "sub2api", h.words(p)); err != nil {
		return nil, err
	}
	if d.Nesting() > nesting {
		return nil, d.Errf("sub2api: a closing brace is missing, or is not alone on its line")
	}
	return p, p.locate(h.Validate())
}

// parser reads one directive. It remembers where each item stands, so that
// the checks, which know no lines, can be reported with theirs.
type parser struct {
	d    *caddyfile.Dispenser
	seen map[string]caddyfile.Token // by path, as in configError
	// count is how many items of each repeatable path there were.
	count map[string]int
}

// word is what may follow one word of a block.
type word struct {
	// usage is what to write after the word, for errors.
	usage string
	// min and max bound the number of arguments; max < 0 is no bound.
	min, max int
	// repeat allows the word to stand more than once, each time a new item.
	repeat bool
	// each makes every argument an item of its own, and allows the word to stand
	// more than once.
	each bool
	// read takes the arguments.
	read func(args []string) error
	// open, instead of read, takes the arguments and reads the block that may
	// follow. path is the item's own.
	open func(path string, args []string) error
}

// block reads the words of a block up to its closing brace. No block, and an
// empty one, are no error. title is what errors call the block.
func (p *parser) block(path, title string, words map[string]word) error {
	return p.lines(func(name string) error {
		w, ok := words[name]
		if !ok {
			known := strings.Join(slices.Sorted(maps.Keys(words)), ", ")
			return p.d.Errf("%s: unknown word %q; there are: %s", title, name, known)
		}
		item := name
		if path != "" {
			item = path + "." + name
		}
		if w.repeat {
			item = p.nth(item)
		}
		if first, ok := p.seen[item]; ok && !w.each {
			return p.d.Errf("%s: a second %q; it stands at line %d already, keep one", title, name, first.Line)
		}
		p.seen[item] = p.d.Token()
		return p.word(item, title, name, w)
	})
}

// word reads the arguments, and the block if any, of one word.
func (p *parser) word(item, title, name string, w word) error {
	args := p.d.RemainingArgs()
	if len(args) < w.min || w.max >= 0 && len(args) > w.max {
		problem := "too many arguments"
		if len(args) < w.min {
			problem = "an argument is missing"
		}
		return p.d.Errf("%s: %s: %s; write: %s", title, name, problem, strings.TrimSpace(name+" "+w.usage))
	}
	for _, arg := range args {
		if arg == "" || !utf8.ValidString(arg) {
			return p.d.Errf("%s: %s: an argument is empty or not UTF-8; write: %s %s", title, name, name, w.usage)
		}
		if w.each {
			p.seen[p.nth(item)] = p.d.Token()
		}
	}
	if w.open != nil {
		return w.open(item, args)
	}
	if p.atBlock() {
		return p.d.Errf("%s: %s takes no block; write: %s", title, name, strings.TrimSpace(name+" "+w.usage))
	}
	if err := w.read(args); err != nil {
		return p.d.Errf("%s: %s: %w; write: %s %s", title, name, err, name, w.usage)
	}
	return nil
}

// lines calls read with the first token of each line of a block, if there is
// one; read takes the rest of the line, and of the block that it opens.
func (p *parser) lines(read func(first string) error) error {
	for nesting := p.d.Nesting(); p.d.NextBlock(nesting); {
		if err := read(p.d.Val()); err != nil {
			return err
		}
	}
	return nil
}

// atBlock reports whether the next token opens a block. Caddy's own parser has
// refused an opening brace at the start of a line.
func (p *parser) atBlock() bool {
	if !p.d.Next() {
		return false
	}
	next := p.d.Token()
	p.d.Prev()
	return next.Text == "{" && !next.Quoted()
}

// nth is the path of the next of several items of one kind.
func (p *parser) nth(item string) string {
	n := p.count[item]
	p.count[item]++
	return fmt.Sprintf("%s[%d]", item, n)
}

// locate adds file and line to an error of the checks: those of the item, or of
// the closest one around it.
func (p *parser) locate(err error) error {
	var f *configError
	if !errors.As(err, &f) {
		return err
	}
	at := caddyfile.NewDispenser([]caddyfile.Token{p.token(f.path)})
	at.Next()
	return at.WrapErr(err)
}

// token is the first of an item, or of the closest one around it.
func (p *parser) token(path string) caddyfile.Token {
	token, ok := p.seen[path]
	for !ok {
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
		token, ok = p.seen[path]
	}
	return token
}

// place is the file and line of an item.
func (p *parser) place(path string) string {
	token := p.token(path)
	return fmt.Sprintf("%s:%d", token.File, token.Line)
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Config)(nil)
)
