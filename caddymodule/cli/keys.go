package cli

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
)

func keysCommand(endpoint Endpoint) *cobra.Command {
	keys, c := adminCommand(endpoint, "keys", "Lists, adds and revokes gateway keys")
	needsCommand(keys)
	keys.AddCommand(
		&cobra.Command{Use: "list [<user>]", Short: "Lists the keys of a user, or all", Args: cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				path := "keys"
				if len(args) > 0 {
					path = pathOf("users", args[0], "keys")
				}
				return ask(cmd, c, http.MethodGet, path, nil, printKeys)
			}},
		addKeyCommand(c),
		&cobra.Command{Use: "revoke <id>", Short: "Deletes a key, named by its id", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				answer, err := c.call(http.MethodDelete, pathOf("keys", args[0]), nil, nil)
				if err != nil {
					return err
				}
				answer.Close()
				if !c.asJSON {
					fmt.Fprintf(cmd.OutOrStdout(), "key %s is revoked\n", args[0])
				}
				return nil
			}},
	)
	return keys
}

func addKeyCommand(c *adminClient) *cobra.Command {
	var groups, models []string
	var expires, daily, monthly string
	cmd := &cobra.Command{
		Use: "add <user> [--group a,b] [--models …] [--expires …] [--daily 5] [--monthly 50]", Short: "Makes a gateway key and prints it, this once", Args: cobra.ExactArgs(1),
		Long: "Makes a gateway key and prints it, this once. The key goes to standard output, what is to be said of it to standard error.",
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&groups, "group", nil, "The groups that it may use, in order of preference; without it, every account")
	flags.StringSliceVar(&models, "models", nil, "The models that it may ask for, a trailing * matches a prefix; without it, all")
	flags.StringVar(&expires, "expires", "", "When it expires: RFC 3339, or a date for "+dateMeans+"; without it, never")
	flags.StringVar(&daily, "daily", "", "The most that it may spend in a day, in US dollars; without it, no limit")
	flags.StringVar(&monthly, "monthly", "", "The most that it may spend in 30 days")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		limits := map[string]any{}
		body := map[string]any{"groups": groups, "models": models, "limits": limits}
		if flags.Changed("expires") {
			body["expires_at"] = expires
		}
		if flags.Changed("daily") {
			limits["daily"] = daily
		}
		if flags.Changed("monthly") {
			limits["monthly"] = monthly
		}
		return ask(cmd, c, http.MethodPost, pathOf("users", args[0], "keys"), body, func(out io.Writer, k admin.Key) {
			notes := cmd.ErrOrStderr()
			fmt.Fprintf(notes, "The key %s of user %s, shown this once; keep it safe:\n\n", k.ID, k.User)
			fmt.Fprintln(out, k.Key)
			fmt.Fprintln(notes)
			printKeys(notes, []admin.Key{k})
		})
	}
	return cmd
}

func printKeys(out io.Writer, keys []admin.Key) {
	t := table(out, "ID", "USER", "SOURCE", "PREFIX", "GROUPS", "MODELS", "EXPIRES", "DAILY", "MONTHLY", "CREATED", "LAST USED")
	for _, k := range keys {
		prefix, created, used := "unknown", "unknown", "unknown"
		if k.Source == billing.SourceAPI {
			prefix, created, used = *k.Prefix+"…", timeOr("", k.Created), timeOr("never", k.LastUsed)
		}
		tableRow(t, k.ID, k.User, k.Source, prefix, cmp.Or(strings.Join(k.Groups, ","), "every account"), cmp.Or(strings.Join(k.Models, ","), "all"),
			timeOr("never", k.Expires), dollarsOr("none", k.Limits.Daily), dollarsOr("none", k.Limits.Monthly), created, used)
	}
	t.Flush()
}
