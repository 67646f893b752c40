//! Well-known places that link to pages. Each table is sorted by its first column.

use crate::enrich::ReferrerKind::{self, Mail, Search, Social};

/// What is known of a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) kind: ReferrerKind,
    pub(super) name: &'static str,
}

const fn is(kind: ReferrerKind, name: &'static str) -> Known {
    Known { kind, name }
}

/// A name that its owner has in most countries.
pub(super) struct Brand {
    pub(super) label: &'static str,
    /// What may stand before it; after a `*`, what that may end with.
    pub(super) subdomains: &'static [&'static str],
    pub(super) known: Known,
}

/// Brands by their label, with `.com` or a country's suffix behind it. The first that fits counts.
pub(super) const BRANDS: &[Brand] = &[
    Brand {
        label: "google",
        subdomains: &["", "www", "m", "images", "encrypted", "cse", "lens", "search"],
        known: is(Search, "Google"),
    },
    Brand { label: "yahoo", subdomains: &["mail", "*.mail"], known: is(Mail, "Yahoo Mail") },
    Brand {
        label: "yahoo",
        subdomains: &["", "www", "m", "search", "*.search"],
        known: is(Search, "Yahoo"),
    },
    Brand { label: "yandex", subdomains: &["mail", "*.mail"], known: is(Mail, "Yandex Mail") },
    Brand { label: "yandex", subdomains: &["", "www", "m"], known: is(Search, "Yandex") },
    Brand { label: "pinterest", subdomains: &["", "*"], known: is(Social, "Pinterest") },
    Brand { label: "ask", subdomains: &["", "www", "uk", "de"], known: is(Search, "Ask") },
];

/// Hosts, with all that is below them.
pub(super) const HOSTS: &[(&str, Known)] = &[
    ("app.fastmail.com", is(Mail, "Fastmail")),
    ("app.tuta.com", is(Mail, "Tuta")),
    ("baidu.com", is(Search, "Baidu")),
    ("bing.com", is(Search, "Bing")),
    ("bsky.app", is(Social, "Bluesky")),
    ("bsky.social", is(Social, "Bluesky")),
    ("coccoc.com", is(Search, "Coc Coc")),
    ("connect.xfinity.com", is(Mail, "Comcast Mail")),
    ("ddg.gg", is(Search, "DuckDuckGo")),
    ("digg.com", is(Social, "Digg")),
    ("discord.com", is(Social, "Discord")),
    ("discord.gg", is(Social, "Discord")),
    ("dogpile.com", is(Search, "Dogpile")),
    ("douyin.com", is(Social, "Douyin")),
    ("duckduckgo.com", is(Search, "DuckDuckGo")),
    ("e.mail.ru", is(Mail, "Mail.ru")),
    ("ecosia.org", is(Search, "Ecosia")),
    ("email.seznam.cz", is(Mail, "Seznam Email")),
    ("email.t-online.de", is(Mail, "T-Online Mail")),
    ("facebook.com", is(Social, "Facebook")),
    ("facebook.net", is(Social, "Facebook")),
    ("fastmail.com", is(Mail, "Fastmail")),
    ("fb.com", is(Social, "Facebook")),
    ("fb.me", is(Social, "Facebook")),
    ("flickr.com", is(Social, "Flickr")),
    ("gmx.at", is(Mail, "GMX")),
    ("gmx.ch", is(Mail, "GMX")),
    ("gmx.com", is(Mail, "GMX")),
    ("gmx.de", is(Mail, "GMX")),
    ("gmx.net", is(Mail, "GMX")),
    ("go.mail.ru", is(Search, "Mail.ru Search")),
    ("hotmail.com", is(Mail, "Outlook")),
    ("inbox.google.com", is(Mail, "Gmail")),
    ("instagram.com", is(Social, "Instagram")),
    ("kagi.com", is(Search, "Kagi")),
    ("karmasearch.org", is(Search, "Karma Search")),
    ("lemmy.world", is(Social, "Lemmy")),
    ("line.me", is(Social, "Line")),
    ("linkedin.com", is(Social, "LinkedIn")),
    ("lnkd.in", is(Social, "LinkedIn")),
    ("mail.126.com", is(Mail, "NetEase Mail")),
    ("mail.163.com", is(Mail, "NetEase Mail")),
    ("mail.aol.com", is(Mail, "AOL Mail")),
    ("mail.comcast.net", is(Mail, "Comcast Mail")),
    ("mail.daum.net", is(Mail, "Daum Mail")),
    ("mail.google.com", is(Mail, "Gmail")),
    ("mail.icloud.com", is(Mail, "iCloud Mail")),
    ("mail.libero.it", is(Mail, "Libero Mail")),
    ("mail.live.com", is(Mail, "Outlook")),
    ("mail.naver.com", is(Mail, "Naver Mail")),
    ("mail.proton.me", is(Mail, "Proton Mail")),
    ("mail.protonmail.com", is(Mail, "Proton Mail")),
    ("mail.qq.com", is(Mail, "QQ Mail")),
    ("mail.tutanota.com", is(Mail, "Tuta")),
    ("mail.zoho.com", is(Mail, "Zoho Mail")),
    ("mail.zoho.eu", is(Mail, "Zoho Mail")),
    ("mastodon.online", is(Social, "Mastodon")),
    ("mastodon.social", is(Social, "Mastodon")),
    ("mastodon.world", is(Social, "Mastodon")),
    ("messagerie.orange.fr", is(Mail, "Orange Mail")),
    ("messenger.com", is(Social, "Facebook")),
    ("metager.de", is(Search, "MetaGer")),
    ("metager.org", is(Search, "MetaGer")),
    ("mojeek.com", is(Search, "Mojeek")),
    ("mstdn.social", is(Social, "Mastodon")),
    ("naver.com", is(Search, "Naver")),
    ("news.ycombinator.com", is(Social, "Hacker News")),
    ("nextdoor.com", is(Social, "Nextdoor")),
    ("nova.rambler.ru", is(Search, "Rambler")),
    ("odnoklassniki.ru", is(Social, "Odnoklassniki")),
    ("office.mailbox.org", is(Mail, "Mailbox.org")),
    ("ok.ru", is(Social, "Odnoklassniki")),
    ("outlook.com", is(Mail, "Outlook")),
    ("outlook.live.com", is(Mail, "Outlook")),
    ("outlook.office.com", is(Mail, "Outlook")),
    ("outlook.office365.com", is(Mail, "Outlook")),
    ("petalsearch.com", is(Search, "Petal Search")),
    ("pin.it", is(Social, "Pinterest")),
    ("presearch.com", is(Search, "Presearch")),
    ("quora.com", is(Social, "Quora")),
    ("qwant.com", is(Search, "Qwant")),
    ("redd.it", is(Social, "Reddit")),
    ("reddit.com", is(Social, "Reddit")),
    ("search.aol.com", is(Search, "AOL")),
    ("search.brave.com", is(Search, "Brave Search")),
    ("search.daum.net", is(Search, "Daum")),
    ("search.lycos.com", is(Search, "Lycos")),
    ("search.naver.com", is(Search, "Naver")),
    ("search.seznam.cz", is(Search, "Seznam")),
    ("seznam.cz", is(Search, "Seznam")),
    ("slashdot.org", is(Social, "Slashdot")),
    ("snapchat.com", is(Social, "Snapchat")),
    ("so.com", is(Search, "Haosou")),
    ("sogou.com", is(Search, "Sogou")),
    ("startpage.com", is(Search, "Startpage")),
    ("suche.gmx.net", is(Search, "GMX Search")),
    ("suche.t-online.de", is(Search, "T-Online")),
    ("suche.web.de", is(Search, "WEB.DE Search")),
    ("swisscows.com", is(Search, "Swisscows")),
    ("t.cn", is(Social, "Weibo")),
    ("t.co", is(Social, "X")),
    ("t.me", is(Social, "Telegram")),
    ("telegram.me", is(Social, "Telegram")),
    ("telegram.org", is(Social, "Telegram")),
    ("threads.com", is(Social, "Threads")),
    ("threads.net", is(Social, "Threads")),
    ("tiktok.com", is(Social, "TikTok")),
    ("tumblr.com", is(Social, "Tumblr")),
    ("twitch.tv", is(Social, "Twitch")),
    ("twitter.com", is(Social, "X")),
    ("vimeo.com", is(Social, "Vimeo")),
    ("vk.com", is(Social, "VK")),
    ("vk.ru", is(Social, "VK")),
    ("vkontakte.ru", is(Social, "VK")),
    ("wa.me", is(Social, "WhatsApp")),
    ("web.de", is(Mail, "WEB.DE")),
    ("weibo.cn", is(Social, "Weibo")),
    ("weibo.com", is(Social, "Weibo")),
    ("whatsapp.com", is(Social, "WhatsApp")),
    ("x.com", is(Social, "X")),
    ("xing.com", is(Social, "XING")),
    ("ya.ru", is(Search, "Yandex")),
    ("youtu.be", is(Social, "YouTube")),
    ("youtube-nocookie.com", is(Social, "YouTube")),
    ("youtube.com", is(Social, "YouTube")),
    ("zhihu.com", is(Social, "Zhihu")),
];

/// Packages of Android's apps.
pub(super) const APPS: &[(&str, Known)] = &[
    ("ch.protonmail.android", is(Mail, "Proton Mail")),
    ("com.baidu.searchbox", is(Search, "Baidu")),
    ("com.discord", is(Social, "Discord")),
    ("com.duckduckgo.mobile.android", is(Search, "DuckDuckGo")),
    ("com.ecosia.android", is(Search, "Ecosia")),
    ("com.facebook.katana", is(Social, "Facebook")),
    ("com.facebook.lite", is(Social, "Facebook")),
    ("com.facebook.orca", is(Social, "Facebook")),
    ("com.google.android.gm", is(Mail, "Gmail")),
    ("com.google.android.gm.lite", is(Mail, "Gmail")),
    ("com.google.android.googlequicksearchbox", is(Search, "Google")),
    ("com.google.android.youtube", is(Social, "YouTube")),
    ("com.instagram.android", is(Social, "Instagram")),
    ("com.instagram.barcelona", is(Social, "Threads")),
    ("com.linkedin.android", is(Social, "LinkedIn")),
    ("com.microsoft.bing", is(Search, "Bing")),
    ("com.microsoft.office.outlook", is(Mail, "Outlook")),
    ("com.nhn.android.search", is(Search, "Naver")),
    ("com.pinterest", is(Social, "Pinterest")),
    ("com.qwant.liberty", is(Search, "Qwant")),
    ("com.reddit.frontpage", is(Social, "Reddit")),
    ("com.sina.weibo", is(Social, "Weibo")),
    ("com.snapchat.android", is(Social, "Snapchat")),
    ("com.ss.android.ugc.trill", is(Social, "TikTok")),
    ("com.twitter.android", is(Social, "X")),
    ("com.vkontakte.android", is(Social, "VK")),
    ("com.whatsapp", is(Social, "WhatsApp")),
    ("com.yahoo.mobile.client.android.mail", is(Mail, "Yahoo Mail")),
    ("com.yahoo.mobile.client.android.search", is(Search, "Yahoo")),
    ("com.zhiliaoapp.musically", is(Social, "TikTok")),
    ("cz.seznam.sbrowser", is(Search, "Seznam")),
    ("de.gmx.mobile.android.mail", is(Mail, "GMX")),
    ("de.web.mobile.android.mail", is(Mail, "WEB.DE")),
    ("org.joinmastodon.android", is(Social, "Mastodon")),
    ("org.telegram.messenger", is(Social, "Telegram")),
    ("ru.mail.mailapp", is(Mail, "Mail.ru")),
    ("ru.yandex.mail", is(Mail, "Yandex Mail")),
    ("ru.yandex.searchplugin", is(Search, "Yandex")),
    ("xyz.blueskyweb.app", is(Social, "Bluesky")),
];

/// Second labels below a country's suffix that many owners share.
pub(super) const SHARED_SECOND_LABELS: &[&str] =
    &["ac", "co", "com", "edu", "go", "gob", "gov", "ne", "net", "nom", "or", "org"];

/// Other suffixes that many owners share.
pub(super) const SHARED_SUFFIXES: &[&str] = &[
    "azurewebsites.net",
    "blogspot.com",
    "cloudfront.net",
    "firebaseapp.com",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "myshopify.com",
    "netlify.app",
    "onrender.com",
    "pages.dev",
    "substack.com",
    "tumblr.com",
    "vercel.app",
    "web.app",
    "webflow.io",
    "wixsite.com",
    "wordpress.com",
    "workers.dev",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_name_nothing_twice() {
        for table in [HOSTS, APPS] {
            assert!(table.is_sorted_by(|(a, _), (b, _)| a < b));
            assert!(table.iter().all(|(host, _)| *host == host.to_lowercase()));
        }
    }
}
