# A far end by Net::SIP: answers every call at its address and sends back whatever it hears.
use strict;
use warnings;
use IO::Socket::INET;
use Net::SIP;

my $host = shift(@ARGV) or die "an address is wanted\n";
my $socket = IO::Socket::INET->new(Proto => 'udp', LocalAddr => $host, LocalPort => 5060)
    or die "$host:5060: $!\n";
my $leg = Net::SIP::Leg->new(sock => $socket);
my $agent = Net::SIP::Simple->new(from => "sip:clyde\@$host", legs => [$leg]);
$agent->listen(init_media => $agent->rtp('recv_echo'));
$agent->loop;
