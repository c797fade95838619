# 008_readme.pl - README.md and docs/*.md say what is: every ```sql block runs, in the
# order of its page, in a database that has an executions table with old rows of each
# tenant that the page names; what a block prints is compared with the ```text block
# that follows it, if one does.  The settings are compared with those of the server.
#
# A block fails if and only if its ```text block has a line that begins with ERROR.
# Times, durations and the widths of columns do not count in a comparison, and "..." is
# for whatever it stands in place of.
# Lines "$ psql ..." of a ```console block run too; its other lines do not.
#
# Comments before a block say what it needs.  Nothing is skipped but on a server for
# which there is no pg_cron.
#
#   <!-- test: new database -->                      as at the beginning of a page
#   <!-- test: new database without executions -->   that table is not there yet
#   <!-- test: pg_cron lives in database NAME -->    from here to the end of the page
#   <!-- test: needs pg_cron -->                     the next block
#   <!-- test: in database NAME -->                  the next block
#   <!-- test: as role NAME -->                      the next block
#   <!-- test: runs in test/t/NAME.pl -->            the page is run there, not here
#   <!-- test: first
#   SQL that runs before the next block, as a superuser
#   -->

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run ();
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my $database = 'app';
my $has_cron = have_library('pg_cron');
my $cron_database = $database;
my $node = start_node('readme',
	$has_cron
	? ("shared_preload_libraries = 'pg_cron'", "cron.database_name = '$database'",
		'cron.use_background_workers = on')
	: ());
my @tenants;    # of the page

# ---- Pages

# The blocks of a page: { kind, line, text, output, do => [...] }.
sub blocks_of
{
	my ($page, $content) = @_;
	my (@blocks, $block, @do, $first, $elsewhere);
	my $line = 0;

	foreach my $text (split /\n/, $content)
	{
		$line++;
		if (defined $first)
		{
			if ($text =~ /^-->\s*$/)
			{
				push @do, [ 'first', $first ];
				undef $first;
			}
			else { $first .= "$text\n"; }
		}
		elsif (defined $block)
		{
			if ($text !~ /^\s*```\s*$/)
			{
				$block->{text} .= "$text\n";
				next;
			}
			if ($block->{kind} =~ /^(sql|console)$/)
			{
				push @blocks, $block;
				@do = ();
			}
			elsif ($block->{kind} eq 'text' && @blocks && $blocks[-1]{next})
			{
				$blocks[-1]{output} = $block->{text};
			}
			$blocks[-1]{next} = $block->{kind} eq 'sql' if @blocks;
			undef $block;
		}
		elsif ($text =~ /^\s*```\s*(\w*)(.*)$/)
		{
			fail("$page line $line: nothing follows the kind of a block: $text") if $2 ne '';
			$block = { kind => lc $1, line => $line + 1, text => '', do => [@do] };
		}
		elsif ($text =~ /^<!-- test: first\s*$/) { $first = ''; }
		elsif ($text =~ m{^<!-- test: runs in (test/t/\w+\.pl) -->\s*$})
		{
			like(PostgreSQL::Test::Utils::slurp_file("$root/$1"), qr/\Q$page\E/, "$1 runs $page");
			$elsewhere = 1;
		}
		elsif ($text =~ /^<!-- test: (.*) -->\s*$/) { push @do, [ "line $line", $1 ]; }
		elsif ($text =~ /<!-- test:/)               { fail("$page line $line: not understood"); }
		elsif ($text =~ /\S/)                       { $blocks[-1]{next} = 0 if @blocks; }
	}
	ok(!defined $block && !defined $first, "$page: every block ends");
	return $elsewhere ? () : @blocks;
}

sub fresh_database
{
	my ($with_executions) = @_;
	my $first = 1;
	my $sql = '';

	drop_database($node, $database);
	$node->safe_psql('postgres', "DROP OWNED BY $_; DROP ROLE $_")
	  foreach split /\n/,
	  $node->safe_psql('postgres', 'SELECT oid::regrole FROM pg_roles WHERE oid >= 16384');
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	return unless $with_executions;

	$sql = executions_table(extra => '; ALTER TABLE executions ADD PRIMARY KEY (id)');
	foreach my $tenant (@tenants)
	{
		$sql .= fill_tenant($tenant, 500, newest => 400, first => $first)
		  . fill_tenant($tenant, 500, first => $first + 500);
		$first += 1000;
	}
	$node->safe_psql($database, "$sql VACUUM ANALYZE executions");
	return;
}

# pg_cron's launcher keeps a connection to its database.
sub move_cron
{
	my ($to) = @_;

	return if !$has_cron || $cron_database eq $to;
	$cron_database = $to;
	$node->append_conf('postgresql.conf', "cron.database_name = '$to'");
	$node->restart;
	return;
}

# What differs from one time to the next, or from one version to another.
sub plain
{
	my ($text) = @_;

	for ($text)
	{
		s/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?[+-]\d\d(:\d\d)?/<time>/g;
		s/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d/<time>/g;
		s/\b\d\d:\d\d:\d\d(\.\d+)?\b/<clock>/g;
		s/after \d+\.\d s/after <s>/g;
		s/^-\[ RECORD (\d+) \][-+]*$/[ RECORD $1 ]/mg;
		s/-{3,}/---/g;
		s/[ \t]+/ /g;
		s/ $//mg;
		s/\n+$//;
	}
	return $text;
}

sub like_page
{
	my ($got, $page_says, $name) = @_;
	my $pattern = join '.*', map { quotemeta } split /\.\.\./, plain($page_says), -1;

	$got = plain($got);
	ok($got =~ /\A$pattern\z/s, $name)
	  or diag("the page says:\n", plain($page_says), "\nthe server says:\n$got");
	return;
}

# psql with this input; returns its exit status and all that it printed.
sub psql
{
	my ($input, @options) = @_;
	my $out = '';

	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = $database;
	local $ENV{PGOPTIONS} = '-c timezone=UTC';
	IPC::Run::run([ 'psql', '-X', @options ], '<', \$input, '>', \$out, '2>&1');
	return ($? >> 8, $out);
}

sub run_block
{
	my ($page, $block) = @_;
	my $name = "$page line $block->{line}";
	my @options = ('-q', '-v', 'ON_ERROR_STOP=1');

	foreach (@{ $block->{do} })
	{
		my ($where, $what) = @$_;

		if    ($where eq 'first') { $node->safe_psql($database, $what); }
		elsif ($what eq 'new database') { fresh_database(1); }
		elsif ($what eq 'new database without executions') { fresh_database(0); }
		elsif ($what =~ /^pg_cron lives in database (\w+)$/) { move_cron($1); }
		elsif ($what =~ /^in database (\w+)$/) { push @options, '-d', $1; }
		elsif ($what =~ /^as role (\w+)$/)     { push @options, '-U', $1; }
		elsif ($what eq 'needs pg_cron' && $has_cron) { }
		elsif ($what eq 'needs pg_cron')
		{
		  SKIP: { skip "$name: there is no pg_cron for this server", 1; }
			return;
		}
		else { fail("$page $where: not understood: $what"); }
	}

	if ($block->{kind} eq 'console')
	{
		foreach my $command ($block->{text} =~ /^\$ psql (.*)$/mg)
		{
			# as the shell splits it: words and single quotes are all there is
			my @words = map { s/^'(.*)'$/$1/sr } $command =~ /'[^']*'|[^\s']+/g;
			my ($rc, $out) = psql('', @words);
			is($rc, 0, "$name runs: psql $command") or diag $out;
		}
		return;
	}

	my ($rc, $out) = psql($block->{text}, @options);
	my $output = $block->{output};
	if (defined $output && $output =~ /^ERROR/m)
	{
		isnt($rc, 0, "$name fails");
	}
	else
	{
		is($rc, 0, "$name runs") or diag("$block->{text}\n$out");
	}
	like_page($out, $output, "$name prints what the page shows") if defined $output;
	return;
}

my %text;
foreach my $page ('README.md', map { s{^\Q$root\E/}{}r } sort glob "$root/docs/*.md")
{
	my $content = $text{$page} = PostgreSQL::Test::Utils::slurp_file("$root/$page");
	my @blocks = blocks_of($page, $content);
	my %seen;

	@tenants = grep { !$seen{$_}++ }
	  map { lc } $content =~ /'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'/gi;
	next unless @blocks;
	# the pages schedule jobs for these minutes of the day, and show that none has run yet
	sleep 1 while $content =~ /retention\.schedule/ && grep { ($_ * 60 - time) % 86400 < 300 } 120, 197;
	move_cron($database);
	fresh_database(1);
	run_block($page, $_) foreach @blocks;
}
cmp_ok(scalar(keys %text), '>', 5, 'README.md and the pages of docs/');

# ---- Settings: name, default and who may set them, as the reference has them

my $settings = psql_settings();
my %on_page = $text{'docs/reference.md'} =~ /^\| `(retention\.\w+)` \| (.*? \| .*?) \|/mg;
is_deeply(\%on_page, $settings, 'docs/reference.md has the settings as they are');

sub psql_settings
{
	my %settings;

	move_cron($database);
	@tenants = ();
	fresh_database(1);
	foreach my $row (
		split /\n/,
		$node->safe_psql($database, q{
			CREATE EXTENSION retention;
			SELECT name, CASE WHEN vartype = 'string' OR vartype = 'bool' OR boot_val::integer <= 0 THEN boot_val
					WHEN unit = 'ms' THEN boot_val::integer / 1000 || 's' ELSE boot_val || coalesce(unit, '') END,
				CASE context WHEN 'superuser' THEN 'superuser' ELSE context END
			FROM pg_settings WHERE name LIKE 'retention.%'}))
	{
		my ($name, $default, $who) = split /\|/, $row;

		$default = "`$default`" if $default =~ / /;
		$settings{$name} = "$default | $who";
	}
	return \%settings;
}

$node->stop;
done_testing();
